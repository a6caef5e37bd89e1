"""What each party saw: a search for the key, the model and the pictures, wherever the platform could look.

The same search then runs over the owner's directory and the client's own request, where it has to find them: a search
that finds nothing anywhere proves nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sealserve.demo.errors import PlaintextFoundError
from sealserve.demo.search import Findings, Needle, needles_of, search_bytes, search_memory, search_tree
from sealserve.demo.tap import Tap
from sealserve.files import read_secret_file
from sealserve.gateway import ACCESS_LOG
from sealserve.local.layout import Layout

KEY, TLS_KEY, MODEL, PICTURE = "the wrap key", "the TLS key", "the model", "the picture"


@dataclass(frozen=True)
class Secrets:
    """What nobody on the platform may see."""

    needles: tuple[Needle, ...]

    @classmethod
    def gather(cls, *, wrap_key: Path, tls_key: Path | None, model: Path, pictures: list[bytes]) -> Secrets:
        """Cut needles out of the wrap key, the owner's TLS key, the files of the model and the pixels sent."""
        with read_secret_file(wrap_key, size=16) as key:
            needles = [Needle(KEY, bytes(key.reveal()))]
        if tls_key is not None:
            with read_secret_file(tls_key) as pem:
                # Its lines; the first is a header, and the second begins as every key of its kind does.
                lines = bytes(pem.reveal()).splitlines()[2:-1]
            needles += [needle for line in lines for needle in needles_of(TLS_KEY, line)]
        for file in sorted(path for path in model.rglob("*") if path.is_file()):
            needles += needles_of(MODEL, file.read_bytes())
        for pixels in pictures:
            needles += needles_of(PICTURE, pixels)
        return cls(tuple(needles))


def look_at_wire(tap: Tap, secrets: Secrets) -> Findings:
    """Everything that passed between clients and the gateway, in both directions."""
    findings = Findings()
    search_bytes(tap.sent, secrets.needles, "from the client", findings)
    search_bytes(tap.received, secrets.needles, "to the client", findings)
    return findings


def look_at_disk(layout: Layout, secrets: Secrets) -> Findings:
    """Every file below the platform's directory: sealed model, logs, temporary files, the gateway's own."""
    findings = Findings()
    search_tree(layout.platform, list(secrets.needles), findings)
    return findings


def look_at_gateway(pids: list[int], secrets: Secrets) -> Findings:
    """The memory of the gateway's processes, as far as the system lets this user read it."""
    findings = Findings()
    for pid in pids:
        search_memory(pid, list(secrets.needles), findings)
    return findings


@dataclass(frozen=True)
class Forwarded:
    """What the gateway says of itself: ``received`` from clients and ``sent`` to them, in bytes."""

    connections: int
    received: int
    sent: int


def forwarded(layout: Layout) -> Forwarded:
    """Add up the gateway's own log of the connections that have ended."""
    lines = (layout.nginx / ACCESS_LOG).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    received = sum(int(entry["bytes_received"]) for entry in entries)
    return Forwarded(len(entries), received, sum(int(entry["bytes_sent"]) for entry in entries))


def require_clean(findings: Findings, where: str) -> None:
    """Fail if anything was found.

    :raises PlaintextFoundError: with what was found, and where.
    """
    if findings.found:
        found = "; ".join(f"{label} in {', '.join(places)}" for label, places in findings.found.items())
        raise PlaintextFoundError(f"plaintext {where}: {found}")


def require_found(layout: Layout, secrets: Secrets, model: Path, request: bytes) -> None:
    """Check the search itself: the key and the model are in the owner's files, the picture in the client's request.

    :raises PlaintextFoundError: the search misses what is there.
    """
    owner = Findings(once=True)
    search_tree(layout.owner, list(secrets.needles), owner)
    if not model.is_relative_to(layout.owner):
        search_tree(model, list(secrets.needles), owner)
    client = Findings(once=True)
    search_bytes(request, secrets.needles, "the request", client)
    picture_has_needles = any(needle.label == PICTURE for needle in secrets.needles)  # a plain colour has none
    expected = {needle.label for needle in secrets.needles} - {PICTURE}
    if not expected <= owner.found.keys() or (picture_has_needles and PICTURE not in client.found):
        raise PlaintextFoundError("the search does not find plaintext where it belongs, so its silence says nothing")
