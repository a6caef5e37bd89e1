"""Environment variables are the host's word. A replica drops them before a library reads them.

What a host could turn on otherwise, and each was seen to work: ``OV_ENABLE_SERIALIZE_TRACING`` has OpenVINO write the
plaintext model into the working directory, ``GRPC_TRACE`` has gRPC write headers of requests into the log,
``OPENSSL_CONF`` changes protocol versions and loads shared libraries, as ``INTEL_LIBITTNOTIFY64`` does. A list of what
is dangerous would never be complete, so there is a list of what is kept.

Too late here is what acts before the first line of Python: ``LD_*``, ``GLIBC_TUNABLES``, ``PYTHON*``. Under Gramine the
manifest, which is measured, says what the environment is.
"""

from __future__ import annotations

import os

from sealserve.notify import VARIABLE as NOTIFY_SOCKET

KEPT = frozenset({NOTIFY_SOCKET, "TMPDIR"})
"""They say where to report readiness, and where temporary files of libraries may lie."""

_SET = {
    "GRPC_VERBOSITY": "NONE",  # or strangers could fill the log: gRPC's core writes a line about bad connections
    "OPENBLAS_NUM_THREADS": "1",  # or NumPy starts a thread for each processor, and an enclave has no threads to spare
}


def drop_environment() -> None:
    """Remove all variables but :data:`KEPT`, make gRPC's core silent, and keep NumPy to one thread.

    To be called before OpenSSL, gRPC, NumPy or OpenVINO is imported.
    """
    for name in list(os.environ):
        if name and name not in KEPT:
            del os.environ[name]
    os.environ.update(_SET)
