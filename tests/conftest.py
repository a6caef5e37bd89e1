"""Fixtures that every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """Files that Gramine's tools, Intel and others made; they lie beside the checkout and not in it."""
    for parent in Path(__file__).resolve().parents:
        candidate = parent / "shared" / "vectors"
        if candidate.is_dir():
            return candidate
    pytest.skip("the vectors (../shared/vectors) are not on this machine")
