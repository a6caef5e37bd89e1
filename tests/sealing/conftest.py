"""Fixtures of the sealing tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from sealing_files import KEY, pattern

from sealserve.secret import Secret


@pytest.fixture
def key() -> Secret:
    return Secret(KEY)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A small SavedModel-like directory with an empty directory in it."""
    root = tmp_path / "model"
    (root / "variables").mkdir(parents=True)
    (root / "assets").mkdir()
    (root / "saved_model.pb").write_bytes(pattern(5000, 1))
    (root / "variables" / "variables.index").write_bytes(pattern(300, 2))
    (root / "variables" / "variables.data-00000-of-00001").write_bytes(pattern(500_000, 3))
    return root
