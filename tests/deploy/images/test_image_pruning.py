"""What is taken out of an image, and that a replica does not miss it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_trusted_files import SERVE_ONCE

sys.path.insert(0, str(Path(__file__).parents[3]))
from benchmarks._image_packages import lay_out, prune

_KEPT = """
from importlib import metadata
from openvino.frontend import FrontEndManager
assert {"tf", "onnx", "tflite"} <= set(FrontEndManager().get_available_front_ends())
assert metadata.version("openvino") and metadata.entry_points()
import sealserve.serving.openvino_file, sealserve.cli.main, numpy.random, numpy.linalg
from sealserve.enclave import life
life._import_engine()  # which compares sealserve's bytecode with its source
from sealserve.evidence import measure_simulated_enclave
measure_simulated_enclave()
"""


def _files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def _write(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("ANSWER = 42\n" if name.endswith(".py") else "")


def test_what_no_replica_opens_is_taken_out_and_the_rest_still_runs(tmp_path: Path) -> None:
    kept = [
        "pack/data.json",
        "pack/core.so",
        "pack-1.dist-info/METADATA",
        "openvino/libs/libopenvino_onnx_frontend.so.1",
    ]
    _write(tmp_path, "pack/__init__.py", "pack/part.py", "pack/__pycache__/part.cpython-312.pyc", *kept)
    _write(
        tmp_path, "pack/tests/test_part.py", "pack/part.pyi", "pack/include/a/core.h", "pack/core.hpp", "pack/core.c"
    )
    _write(
        tmp_path,
        "numpy/f2py/auxfuncs.py",
        "openvino/tools/ovc/main.py",
        "openvino_telemetry/main.py",
        "rich/console.py",
    )
    _write(tmp_path, "openvino/libs/libopenvino_intel_gpu_plugin.so", "openvino/libs/libopenvino_jax_frontend.so.1")
    _write(tmp_path, "sealserve/part.py")
    prune(sys.executable, tmp_path)
    files = _files(tmp_path)
    cached = f"sealserve/__pycache__/part.{sys.implementation.cache_tag}.pyc"
    assert files.keys() == {"pack/__init__.pyc", "pack/part.pyc", "sealserve/part.py", cached, *kept}
    program = "import pack.part; print(pack.part.ANSWER)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_the_same_source_gives_the_same_bytecode_whatever_its_date(tmp_path: Path) -> None:
    found = []
    for date in (1, 1_700_000_000):
        source = tmp_path / "part.py"
        source.write_text("NAMES = {'a', 'b', 'c'}\ndef f(x): return x in {'d', 'e', 'f'}\n")
        os.utime(source, (date, date))
        prune(sys.executable, tmp_path)
        found.append(_files(tmp_path))
    assert found[0] == found[1]


def test_a_source_that_does_not_compile_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("this is no Python\n")
    with pytest.raises(subprocess.CalledProcessError):
        prune(sys.executable, tmp_path)


@pytest.mark.slow
def test_pruned_packages_serve_a_model_and_read_every_kind_that_the_engine_takes(tmp_path: Path) -> None:
    """With this machine's Python, and without this environment's packages."""
    packages = tmp_path / "packages"
    if missing := lay_out("openvino", packages):
        pytest.skip(f"not installed here: {missing}")
    prune(sys.executable, packages)
    for program in (SERVE_ONCE, _KEPT):
        command = [Path(sys.executable).resolve(), "-P", "-S", "-s", "-c", program, tmp_path / "model"]
        environment = {"PYTHONPATH": str(packages)}
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
