"""What stands in a package beside sources must not be importable without being measured."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path

import pytest

import sealserve
from sealserve.errors import InputError
from sealserve.evidence import measure_simulated_enclave


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the place of sealserve's."""
    root = tmp_path / "package"
    (root / "room").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "room" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(sealserve, "__path__", [str(root)])
    return root


@pytest.mark.parametrize("suffix", [*importlib.machinery.all_suffixes(), ".pyd", ".pth"])
def test_compiled_code_beside_a_source_is_refused_or_measured(package: Path, suffix: str) -> None:
    """An extension module is imported before the source of the same name."""
    before = measure_simulated_enclave()
    (package / "room" / f"code{suffix}").write_bytes(b"another content")
    if suffix == ".py":
        assert measure_simulated_enclave() != before
    else:
        with pytest.raises(InputError, match="not measured"):
            measure_simulated_enclave()


def test_a_linked_directory_is_refused(package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text("")
    (package / "linked").symlink_to(elsewhere)
    with pytest.raises(InputError, match="not measured"):
        measure_simulated_enclave()


def test_caches_are_left_out(package: Path) -> None:
    before = measure_simulated_enclave()
    (package / "room" / "__pycache__").mkdir()
    (package / "room" / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"x")
    assert measure_simulated_enclave() == before
