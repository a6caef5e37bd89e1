"""Each party's extra brings all that its rooms import, and each party installs nothing of the others.

The rooms are imported in a process that cannot see any package outside the extra's own dependency tree.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

PROGRAM = """
import importlib, importlib.abc, json, pkgutil, sys
blocked, rooms, skipped = json.loads(sys.argv[1])
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is outside of this extra", name=name)
sys.meta_path.insert(0, Wall())
for room in rooms:
    package = importlib.import_module(f"sealserve.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".protos" not in module.name and not any(part in module.name for part in skipped):
            importlib.import_module(module.name)
"""


def distributions_of(requirement: Requirement, seen: dict[str, set[str]]) -> None:
    """Collect the distributions that ``requirement`` installs, with the extras asked of each."""
    name = requirement.name.lower().replace("_", "-")
    new = requirement.extras - seen.get(name, set())
    if name in seen and not new:
        return
    seen.setdefault(name, set()).update(requirement.extras)
    for text in importlib.metadata.requires(name) or []:
        child = Requirement(text)
        environments = [{"extra": extra} for extra in (requirement.extras or {""})]
        if child.marker is None or any(child.marker.evaluate(environment) for environment in environments):
            distributions_of(child, seen)


def modules_outside(extra: str) -> list[str]:
    """Top-level modules of every installed distribution that ``sealserve[extra]`` does not bring."""
    inside: dict[str, set[str]] = {}
    distributions_of(Requirement(f"sealserve[{extra}]" if extra else "sealserve"), inside)
    owners = importlib.metadata.packages_distributions()
    normal = {module: {name.lower().replace("_", "-") for name in names} for module, names in owners.items()}
    return sorted(module for module, names in normal.items() if not names & inside.keys())


@pytest.mark.parametrize(
    ("extra", "rooms", "never"),
    [
        ("", ["sealing", "deploy"], {"grpc", "numpy", "openvino", "dcap_qvl"}),
        (
            "client",
            ["evidence", "ratls", "wire", "client"],
            {"openvino", "tensorflow", "grpc", "grpc_health", "aiohttp"},
        ),
        ("client,grpc", ["client"], {"openvino", "tensorflow", "grpc_health"}),
        ("broker", ["evidence", "ratls", "sealing", "broker"], {"openvino", "grpc", "numpy", "PIL"}),
        ("server", ["evidence", "ratls", "wire", "sealing", "serving", "enclave"], {"PIL", "h2", "tensorflow"}),
        ("server,tensorflow", ["serving"], {"PIL", "dcap_qvl"}),
    ],
)
def test_an_extra_brings_what_its_rooms_import_and_no_other_partys_packages(
    extra: str, rooms: list[str], never: set[str]
) -> None:
    outside = modules_outside(extra)
    # What programs with gRPC or REST of their own need has an extra of its own, and so has the second engine.
    skipped = [] if "grpc" in extra else [".with_grpcio", ".with_aiohttp"]
    skipped += [] if "tensorflow" in extra else [".serving.tensorflow"]
    assert never <= set(outside), "the extra installs another party's packages"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([outside, rooms, skipped])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
