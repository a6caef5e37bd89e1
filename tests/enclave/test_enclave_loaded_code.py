"""Code that runs is code that is measured: poisoned caches and modules from elsewhere are found."""

from __future__ import annotations

import compileall
import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

import sealserve
from sealserve.enclave.loaded_code import UnmeasuredCodeError, check_loaded_code

PROGRAM = (
    "import sealserve.enclave.hardening as module\n"
    "from sealserve.enclave.loaded_code import check_loaded_code\n"
    "print(getattr(module, 'poison', 'clean'), flush=True)\n"
    "check_loaded_code()\n"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of sealserve with its caches."""
    copy = tmp_path / "sealserve"
    shutil.copytree(Path(sealserve.__path__[0]), copy, ignore=shutil.ignore_patterns("__pycache__"))
    for directory in (copy, copy / "enclave"):
        compileall.compile_dir(directory, maxlevels=0, quiet=1)
    return copy


def run(package: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM],
        env=environment | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_caches_that_python_made_are_good(package: Path) -> None:
    done = run(package)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


def test_a_poisoned_cache_runs_and_is_found(package: Path) -> None:
    source = package / "enclave" / "hardening.py"
    cache = Path(importlib.util.cache_from_source(str(source)))
    poison = compile(source.read_text() + "\npoison = 'poison'\n", str(source), "exec", dont_inherit=True)
    cache.write_bytes(cache.read_bytes()[:16] + marshal.dumps(poison))
    done = run(package)
    assert done.stdout == "poison\n", "Python believes the cache"
    assert done.returncode != 0
    assert "UnmeasuredCodeError" in done.stderr
    assert "hardening.py" in done.stderr


def test_a_stale_cache_that_python_does_not_use_is_no_reason(package: Path) -> None:
    source = package / "enclave" / "hardening.py"
    with source.open("a") as file:
        file.write("\n# One more line.\n")
    done = run(package)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


def test_the_modules_of_this_process_are_good() -> None:
    check_loaded_code()


@pytest.mark.parametrize("kind", ["elsewhere", "no source"])
def test_a_module_from_elsewhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = "sealserve.enclave.added"
    file = tmp_path / "added.py"
    file.write_text("")
    module = ModuleType(name)
    module.__spec__ = importlib.util.spec_from_file_location(name, file)
    if kind == "no source":
        module.__spec__ = ModuleSpec(name, None, origin="memory")
    else:
        assert isinstance(module.__spec__ and module.__spec__.loader, SourceFileLoader)
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(UnmeasuredCodeError, match="not measured"):
        check_loaded_code()
