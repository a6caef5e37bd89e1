"""What a cloud's profile says: the schema of the files in ``profiles/``.

Every figure names the source that it was read from, and every source has a date. What no documentation that could be
read confirms stands in ``unconfirmed``, and is shown to whoever uses the profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sealserve.configuration import Settings
from sealserve.errors import ConfigurationError

REGION = "{region}"
"""Stands in addresses for the region."""


class Source(Settings):
    title: str = Field(description="what it is")
    url: str = Field(description="where it is published", pattern="^https://")
    dated: date | None = Field(None, description="the date that it carries; none if it carries none")
    read: date = Field(description="when it was read, from the web or from a stored copy")


class Sourced(Settings):
    source: str = Field(description="the name of the source of these figures")


class Regions(Sourced):
    names: tuple[str, ...] = Field(description="where the provider's attestation service is", min_length=1)


class Pccs(Sourced):
    url: str = Field(description="address for QCNL on the machine, API version 4", pattern="^https://.*/v4/$")
    options: dict[str, Any] = Field({}, description="further members of sgx_default_qcnl.conf")


class Instance(Sourced):
    name: str = Field(description="the provider's name of the size")
    vcpus: int = Field(ge=1, description="virtual CPUs, or hardware threads of a bare-metal machine")
    memory_gib: int = Field(ge=1, description="memory in GiB")
    epc_gib: int | None = Field(None, ge=1, description="SGX memory (EPC) in GiB; none for TDX")


class System(Sourced):
    id: str = Field(description="ID of /etc/os-release")
    versions: tuple[str, ...] = Field(description="VERSION_ID of /etc/os-release, or its beginning", min_length=1)


class RpmRepository(Sourced):
    url: str | None = Field(None, description="its .repo file; none if the system has it already", pattern="^https://")
    packages: tuple[str, ...] = Field(description="quote generation from the cloud's own repository", min_length=1)


class Devices(Settings):
    enclave: str = "/dev/sgx_enclave"
    provision: str = "/dev/sgx_provision"
    aesm_socket: str = "/var/run/aesmd/aesm.socket"


class Kubernetes(Sourced):
    epc: str = Field(description="what a pod asks for to get protected memory, in its cluster service")
    epc_in_mib: bool = Field(description="whether the amount is a plain number of MiB, and no quantity")
    devices: tuple[str, ...] = Field((), description="what a pod asks for besides, one of each")


class Port(Settings):
    port: int = Field(ge=1, le=65535)
    purpose: str
    open_to: str = Field(description="who connects")


class Tdx(Sourced):
    sold: bool | None = Field(description="whether the provider sells TDX guests; none if it is not known")
    families: tuple[str, ...] = Field((), description="their names")
    where: str = Field("", description="regions and zones")
    instances: tuple[Instance, ...] = Field((), description="sizes")
    quotes: Literal["configfs", "unknown", "vtpm"] = Field(
        "unknown", description="how a guest gets a quote: configfs-tsm, or through the vTPM of a paravisor"
    )
    notes: tuple[str, ...] = ()

    def named_sources(self) -> Iterator[str]:
        """Names of the sources of its figures."""
        yield self.source
        yield from (instance.source for instance in self.instances)


_PORTS = (
    Port(port=4433, purpose="key broker, on the owner's machine", open_to="replicas"),
    Port(port=8500, purpose="gRPC over attested TLS (gateway)", open_to="clients"),
    Port(port=8501, purpose="REST over attested TLS (gateway), if rest_listen is set", open_to="clients"),
)
_HOSTS = (
    (
        "Replicas find the key broker by the name in their manifest (in the original: attestation.service.com). Where "
        "DNS does not know it, add a line `BROKER-ADDRESS NAME` to /etc/hosts, `--add-host NAME:BROKER-ADDRESS` to the "
        "container, or `hostAliases` to the pod."
    ),
    "Clients ask for the server name in deployment.yaml's tls.server_name. It needs no DNS entry.",
)


class CloudProfile(Settings):
    """A kind of machine that a provider rents out, or that one owns.

    :param region: where it is, if its addresses depend on it; :func:`~sealserve.deploy.clouds.load_profile` sets it.
    """

    name: str = Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", description="what commands call it")
    title: str = Field(description="for people")
    provider: str
    regions: Regions | None = None
    region: str | None = None
    pccs: Pccs
    collateral: str = Field(description="`collateral: service` in a policy: intel, azure, alibaba:REGION, or a URL")
    quote_provider: str
    devices: Devices = Devices()
    instances: tuple[Instance, ...] = ()
    kernel: str = Field(description="about the kernel")
    seed: str = Field(description="what the original was run on there")
    systems: tuple[System, ...] = Field(min_length=1, description="what the setup script knows")
    rpm: RpmRepository | None = None
    kubernetes: Kubernetes | None = Field(
        None, description="names of a device plugin of the provider's own; none: Intel's"
    )
    ports: tuple[Port, ...] = _PORTS
    hosts: tuple[str, ...] = _HOSTS
    notes: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    tdx: Tdx
    sources: dict[str, Source]

    @model_validator(mode="after")
    def _sources_are_there(self) -> Self:
        used = set(self._named_sources())
        if missing := used - set(self.sources):
            raise ValueError(f"sources lacks {', '.join(sorted(missing))}")
        if self.regions is None and REGION in self.pccs.url + self.collateral:
            raise ValueError("an address names a region, and there are no regions")
        return self

    def _named_sources(self) -> Iterator[str]:
        yield self.pccs.source
        for figure in (self.regions, self.rpm, self.kubernetes, *self.instances, *self.systems):
            if figure is not None:
                yield figure.source
        yield from self.tdx.named_sources()

    def at(self, region: str) -> CloudProfile:
        """The profile in a region.

        :raises ConfigurationError: it has no regions, or ``region`` is none.
        """
        if self.regions is None:
            raise ConfigurationError(f"{self.name} has no regions", hint=f"Write `{self.name}` alone.")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", region):
            raise ConfigurationError(
                f"{region!r} is not the name of a region",
                hint=f"{self.provider} documents its service for: {', '.join(self.regions.names)}.",
            )
        pccs = self.pccs.model_copy(update={"url": self.pccs.url.replace(REGION, region)})
        collateral = self.collateral.replace(REGION, region)
        return self.model_copy(update={"region": region, "pccs": pccs, "collateral": collateral})

    def require_region(self) -> None:
        """See to it that the addresses are whole.

        :raises ConfigurationError: the region was not said.
        """
        if self.regions is not None and self.region is None:
            raise ConfigurationError(
                f"the addresses of {self.title} depend on the region",
                hint=f"Write `{self.name}:REGION`, where REGION is one of {', '.join(self.regions.names)}.",
            )

    @property
    def full_name(self) -> str:
        """``NAME``, or ``NAME:REGION`` where addresses depend on it, with the word REGION if it was not said."""
        return self.name if self.regions is None else f"{self.name}:{self.region or 'REGION'}"
