"""Files with a receipt and what proves it: evidence, the collateral it was judged with, and perhaps the messages."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from sealserve.client.attestation import PresentedEvidence
from sealserve.client.kept import NOT_KEPT, read_presented
from sealserve.client.receipts import FORMAT
from sealserve.errors import InputError
from sealserve.files import read_file

_MOST = 1 << 30


@dataclass(frozen=True)
class KeptReceipt:
    """A file's content, believed by nobody yet.

    :param receipt: the signed statement. :param presented: evidence of who signed it. :param collateral: JSON.
    :param request: the message, if it was kept. :param answer: likewise.
    """

    receipt: bytes
    presented: PresentedEvidence
    collateral: str
    request: bytes | None = field(default=None, repr=False)
    answer: bytes | None = field(default=None, repr=False)


def read_receipt_file(path: Path) -> KeptReceipt:
    """Read a file that :meth:`~sealserve.client.receipts.Receipt.save` wrote.

    :raises InputError: it is none, or damaged.
    """
    try:
        document = json.loads(read_file(path, limit=_MOST))
        if document["format"] != FORMAT:
            raise InputError(f"{path} has the format {document['format']!r}, and {FORMAT!r} is known here")
        messages = [
            base64.b64decode(document[name], validate=True) if name in document else None
            for name in ("request", "answer")
        ]
        collateral = document["collateral"]
        if not isinstance(collateral, dict):
            raise TypeError("collateral")
        return KeptReceipt(
            bytes.fromhex(document["receipt"]),
            read_presented(document["evidence"], path),
            json.dumps(collateral),
            *messages,
        )
    except NOT_KEPT as error:
        raise InputError(
            f"{path} is no receipt that was kept", hint="`sealserve predict --receipt FILE` writes such files."
        ) from error
