"""What the benchmark under Gramine starts, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))
from benchmarks._gramine_place import Machine, gramine_directory, reason_to_skip, run, started

__all__ = ["Machine", "gramine_directory", "needs_gramine", "run", "started"]

needs_gramine = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
