"""The section ``admin`` of ``broker.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sealserve.addresses import Address, is_dns_name, parse_address
from sealserve.configuration import RelativePath, Settings
from sealserve.errors import InputError

CommonName = Annotated[str, Field(min_length=1, max_length=64)]


class ClientCertificates(Settings):
    """Administrators who prove themselves by TLS certificates.

    :param authority: PEM; only what it signed is accepted. It should sign nothing else.
    :param operators: common names that may read and change. :param viewers: common names that may read.
    """

    authority: RelativePath = Field(description="the authority that signs administrators' certificates, PEM")
    operators: tuple[CommonName, ...] = ()
    viewers: tuple[CommonName, ...] = ()

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not self.operators and not self.viewers:
            raise ValueError("names nobody: give operators, viewers or both")
        if both := set(self.operators) & set(self.viewers):
            raise ValueError(f"names {', '.join(sorted(both))} as operator and as viewer")
        return self


class AdminSettings(Settings):
    """Administration over HTTPS.

    :param listen: ``host:port``; another port than the enclaves'. :param certificate: PEM, the server's own first;
        the broker's if not given. :param private_key: PEM, mode 0600.
    :param tokens: accept bearer tokens (``sealserve broker admin token create``).
    :param clients: accept client certificates. :param names: DNS names by which it may be addressed, beside those in
        its certificate. :param metrics: whether ``/metrics`` needs authentication as everything else does.
    """

    listen: str = Field(description="where administrators connect, host:port")
    certificate: RelativePath | None = None
    private_key: RelativePath | None = None
    tokens: bool = False
    clients: ClientCertificates | None = None
    names: tuple[str, ...] = ()
    metrics: Literal["authenticated", "open"] = "authenticated"

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, text: str) -> str:
        try:
            parse_address(text, allow_any_port=True)
        except InputError as error:
            raise ValueError(f"{error.message}; {error.hint or ''}") from error
        return text

    @field_validator("names")
    @classmethod
    def _names_are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in names if not is_dns_name(name)]:
            raise ValueError(f"{wrong[0]!r} is no DNS name")
        return tuple(name.lower() for name in names)

    @model_validator(mode="after")
    def _somebody_can_prove_themselves(self) -> Self:
        if not self.tokens and self.clients is None:
            raise ValueError("has no authentication: set tokens: true, or clients with an authority, or both")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("give certificate and private_key, or neither")
        return self

    @property
    def address(self) -> Address:
        """Where to listen; port 0 lets the system choose."""
        return parse_address(self.listen, allow_any_port=True)
