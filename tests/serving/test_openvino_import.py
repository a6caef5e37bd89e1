"""What `import openvino` does beside importing."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os, sys
os.fork = None  # whoever calls it says so
import sealserve.serving.openvino_engine
print([name for name in sys.modules if "telemetry" in name and sys.modules[name]])
"""


def test_openvino_tells_nobody_that_it_was_imported(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert list(tmp_path.iterdir()) == []
