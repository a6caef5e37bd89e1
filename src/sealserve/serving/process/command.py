"""``sealserve serve``, from its flags to its last answer."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Mapping

from sealserve import __version__, logs
from sealserve.logs import event, get_logger
from sealserve.serving.process.flags import Value

_PACKAGES = ("openvino", "tensorflow", "tensorflow-cpu")

_log = get_logger(__name__)


def serve(given: Mapping[str, Value | tuple[str, ...]]) -> None:
    """Serve until SIGTERM or SIGINT, finish what is in flight, and return. Runs in the main thread.

    :param given: the flags that were given, by name.
    :raises SealserveError: what keeps the server from serving.
    """
    if given.get("version"):
        print("\n".join(versions()))  # noqa: T201 - it was asked for
        return
    logs.configure(json_lines=bool(given.get("json_logs")))
    # Before gRPC is loaded: its own notes would let strangers fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from sealserve.serving.process.options import read_options
    from sealserve.serving.process.server import Server

    options = read_options(given)
    for note in options.notes:
        event(_log, logging.WARNING, "setting-without-effect", setting=note.setting, note=note.text)
    if options.tls is None and options.values["insecure_plaintext"]:
        event(_log, logging.WARNING, "insecure-plaintext", note="anybody on the way reads and changes what is sent")
    Server(options).run()


def versions() -> list[str]:
    """This server's version, and those of its engines, one a line."""
    lines = [f"sealserve {__version__}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return lines
