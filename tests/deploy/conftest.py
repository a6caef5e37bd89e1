from __future__ import annotations

import sys
from pathlib import Path

# The stand-in for a collateral service is the evidence room's.
sys.path.append(str(Path(__file__).parent.parent / "evidence"))
