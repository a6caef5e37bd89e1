"""What requests may hold."""

from __future__ import annotations

import base64
import binascii
import json
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError

from sealserve.broker.admin.problems import HttpError
from sealserve.broker.audit_reading import LARGEST_PAGE, AuditFilter
from sealserve.broker.key_kinds import KeyKind
from sealserve.broker.messages import Name
from sealserve.broker.store.documents import KeyNumber
from sealserve.configuration import Settings
from sealserve.configuration.explanations import explain
from sealserve.errors import InputError
from sealserve.secret import Secret

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits")]
Model = TypeVar("Model", bound=BaseModel)


class KeyBody(Settings):
    """A new key."""

    name: Name


class ImportBody(Settings):
    """A key's value that was made elsewhere.

    :param value: in base64: 16 bytes, or for the kind ``tls`` a private key in PEM.
    """

    value: SecretStr
    version: KeyNumber | None = None
    kind: KeyKind = "wrap"

    def secret(self) -> Secret:
        """The value. :raises InputError: it is not base64."""
        try:
            return Secret(base64.b64decode(self.value.get_secret_value(), validate=True))
        except (binascii.Error, ValueError):
            problem = "value: must be in base64"
        raise InputError(problem)


class RetireBody(Settings):
    """The end of a version's use."""

    grace_hours: Annotated[float, Field(ge=0, le=87_600)] = 168.0
    force: bool = False


class DestroyBody(Settings):
    """The destruction of a version's value.

    :param confirm: the key's name again.
    """

    confirm: str
    force: bool = False


class PolicyBody(Settings):
    """A policy: YAML text, and the trust root in PEM if the text names one."""

    text: Annotated[str, Field(max_length=256 * 1024)]
    trust_root: Annotated[str, Field(max_length=64 * 1024)] | None = None


class SwitchBody(Settings):
    """What a grant is moved to."""

    digest: Digest
    key_version: KeyNumber | None = None
    model_version: Annotated[int, Field(ge=1, lt=1 << 63)] | None = None
    keep_previous: bool = True


class AuditQuery(AuditFilter):
    """A page of the audit log: the newest first, or with ``after`` the oldest first."""

    before: Annotated[int, Field(ge=1)] | None = None
    after: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = 100


class VerifyQuery(Settings):
    """``head``: a hash that some record must have."""

    head: Digest | None = None


class NoQuery(Settings):
    """Nothing."""


def checked(model: type[Model], value: Any) -> Model:
    """``value`` as a model.

    :raises InputError: it does not fit; lists everything that is wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = (explain(model, item) for item in error.errors(include_url=False, include_input=False))
        text = "; ".join(f"{setting}: {what}" if setting else what for setting, what in found)
    raise InputError(text)


def json_object(body: bytes) -> Any:
    """A body's JSON.

    :raises HttpError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        problem = "the body is not JSON"
    raise HttpError(HTTPStatus.BAD_REQUEST, problem, reason="not-json")
