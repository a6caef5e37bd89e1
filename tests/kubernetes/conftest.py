from __future__ import annotations

import sys
from pathlib import Path

# The model is the local cluster's.
sys.path.append(str(Path(__file__).parent.parent / "local"))
# A PostgreSQL is the brokers' tests.
sys.path.append(str(Path(__file__).parent.parent / "broker"))
