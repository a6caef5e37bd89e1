"""The TensorFlow Serving API over engines: one data plane, thin gRPC in front of it.

Callers are authenticated by nobody here: whatever arrives is checked against the model's signature before an engine
sees it. The model itself was verified before it got here, by whoever unsealed it.
"""

from __future__ import annotations

import sys

# Importing `openvino` imports its converter of models of other frameworks, which nothing here uses, and which tells its
# makers over the network that it was imported: unasked, from a process that it forks, with an identity and a count that
# it keeps in the home directory. A server of other people's secrets does not. See ADR 89.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
