"""The policy file. Its reference is ``docs/appraisal-policy.md``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator, model_validator

from sealserve.configuration import RelativePath, Settings
from sealserve.evidence.policy.collateral_settings import CollateralSettings
from sealserve.files import write_atomically

TcbStatus = Literal["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"]
InsecureTcbStatus = Literal["OutOfDate", "OutOfDateConfigurationNeeded"]

_OUT_OF_DATE = frozenset({"OutOfDate", "OutOfDateConfigurationNeeded"})


def _hexadecimal(size: int) -> Callable[[Any], bytes]:
    def parse(value: Any) -> bytes:
        if isinstance(value, int):
            # pydantic wants a ValueError from a validator, whatever the cause.
            raise ValueError("must be put in quotes: without them YAML takes it for a number")  # noqa: TRY004
        try:
            raw = value if isinstance(value, bytes) else bytes.fromhex(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be {size} bytes in hexadecimal") from None
        if len(raw) != size:
            raise ValueError(f"must be {size} bytes in hexadecimal ({2 * size} digits), and this is {len(raw)} bytes")
        return raw

    return parse


_AsHex = PlainSerializer(bytes.hex, when_used="always")
AdvisoryId = Annotated[str, Field(pattern=r"^[A-Za-z]+(-[A-Za-z0-9]+)+$")]
Ppid = Annotated[bytes, BeforeValidator(_hexadecimal(16)), _AsHex]
Digest = Annotated[bytes, BeforeValidator(_hexadecimal(32)), _AsHex]
TdMeasurement = Annotated[bytes, BeforeValidator(_hexadecimal(48)), _AsHex]
TdFlags = Annotated[bytes, BeforeValidator(_hexadecimal(8)), _AsHex]


def _given(value: Any) -> Any:
    """A value left empty must not switch a check off."""
    if value is None:
        raise ValueError("is empty; give it a value, or remove the line")
    return value


class EnclaveReference(Settings):
    """Reference values of one enclave: MRENCLAVE, or MRSIGNER with product and minimum version, or both."""

    mrenclave: Digest | None = Field(None, description="exactly this enclave, 32 bytes in hexadecimal")
    mrsigner: Digest | None = Field(None, description="enclaves of this signer, 32 bytes in hexadecimal")
    isv_prod_id: int | None = Field(None, ge=0, le=65535, description="the signer's number for the product")
    minimum_isv_svn: int | None = Field(None, ge=0, le=65535, description="the lowest security version accepted")

    _given = field_validator("mrenclave", "mrsigner", "isv_prod_id", "minimum_isv_svn", mode="before")(_given)

    @model_validator(mode="after")
    def _is_a_measurement(self) -> Self:
        if self.mrenclave is None and self.mrsigner is None:
            raise ValueError("names no measurement: give mrenclave, or mrsigner with isv_prod_id and minimum_isv_svn")
        version = (self.isv_prod_id, self.minimum_isv_svn)
        if self.mrsigner is not None and None in version:
            raise ValueError(
                "needs isv_prod_id and minimum_isv_svn beside mrsigner: a signer signs more than one thing"
            )
        if self.mrsigner is None and version != (None, None):
            raise ValueError("has isv_prod_id or minimum_isv_svn without mrsigner, where they mean nothing")
        return self


class TrustDomainSettings(Settings):
    """Reference values of one TDX trust domain. MRTD measures the firmware alone; RTMR1 and RTMR2 what it starts."""

    mrtd: TdMeasurement = Field(description="the trust domain's firmware, 48 bytes in hexadecimal")
    rtmr0: TdMeasurement | None = Field(None, description="the firmware's configuration, 48 bytes in hexadecimal")
    rtmr1: TdMeasurement | None = Field(None, description="boot loader and kernel, 48 bytes in hexadecimal")
    rtmr2: TdMeasurement | None = Field(None, description="command line and initial file system, 48 bytes likewise")
    rtmr3: TdMeasurement | None = Field(None, description="what the guest itself measures, 48 bytes in hexadecimal")
    mr_config_id: TdMeasurement | None = Field(None, description="the owner's configuration, 48 bytes in hexadecimal")
    mr_owner: TdMeasurement | None = Field(None, description="the owner, 48 bytes in hexadecimal")
    mr_owner_config: TdMeasurement | None = Field(None, description="likewise, 48 bytes in hexadecimal")
    td_attributes: TdFlags | None = Field(None, description="exactly these attributes, 8 bytes in hexadecimal")
    xfam: TdFlags | None = Field(None, description="exactly these processor features, 8 bytes in hexadecimal")

    _given = field_validator("*", mode="before")(_given)

    @field_validator("td_attributes")
    @classmethod
    def _not_debug(cls, value: bytes | None) -> bytes | None:
        if value is not None and value[0] & 1:
            raise ValueError("has the debug bit: the host reads such a trust domain's memory, and none is accepted")
        return value


class PolicyDocument(Settings):
    """An appraisal policy as it stands in a file."""

    tee: Literal["sgx", "tdx", "simulated"] = Field(description="the kind of platform")
    trust_root: RelativePath | None = Field(
        None, validate_default=True, description="the root certificate in PEM; Intel's if not given"
    )
    collateral: CollateralSettings = Field(description="the file with the collateral, or the service that has it")
    enclaves: tuple[EnclaveReference, ...] = Field(
        (), validate_default=True, description="the enclaves that are accepted, for tee: sgx and simulated"
    )
    trust_domains: tuple[TrustDomainSettings, ...] = Field(
        (), validate_default=True, description="the trust domains that are accepted, for tee: tdx"
    )
    tcb_statuses: tuple[TcbStatus, ...] = Field(
        ("UpToDate",), description="the TCB statuses accepted; UpToDate always is"
    )
    insecure_accept_tcb_statuses: tuple[InsecureTcbStatus, ...] = Field(
        (), description="TCB statuses of platforms with known, unfixed vulnerabilities that are accepted all the same"
    )
    reject_advisories: tuple[AdvisoryId, ...] = Field((), description="advisories that must not apply to the platform")
    minimum_tcb_evaluation_data_number: int = Field(
        0, ge=0, description="the oldest TCB recovery event that the collateral may know"
    )
    machines: tuple[Ppid, ...] = Field((), description="the PPIDs of the machines accepted; any if empty")
    models: tuple[Digest, ...] = Field((), description="the digests of the sealed models that a client accepts")
    insecure_accept_simulated_platform: bool = Field(
        False, validate_default=True, description="accept evidence that proves nothing"
    )
    insecure_accept_debug: bool = Field(False, description="there is no such permission")

    @field_validator("trust_root")
    @classmethod
    def _simulated_has_a_root(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("tee") == "simulated":
            raise ValueError("is needed for tee: simulated, whose platforms are not under Intel's root")
        return value

    @field_validator("enclaves", "trust_domains", mode="before")
    @classmethod
    def _some_measurement(cls, value: Any, info: ValidationInfo) -> Any:
        domains = info.field_name == "trust_domains"
        tee = info.data.get("tee")
        if domains != (tee == "tdx"):
            if isinstance(value, tuple | list) and not value:
                return ()
            if tee is None:
                return value
            wanted = "enclaves" if domains else "trust_domains"
            raise ValueError(f"is not for tee: {tee}, which has {wanted}")
        what = "trust domain" if domains else "enclave"
        if value == ():  # the default: the setting is not in the file
            raise ValueError(f"is missing (the {what}s that are accepted; without a measurement any would be)")
        if isinstance(value, list | tuple) and not value:
            raise ValueError(f"must name at least one {what}")
        return value

    @field_validator("tcb_statuses", mode="before")
    @classmethod
    def _insecure_statuses_are_called_so(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and (bad := [item for item in value if item in _OUT_OF_DATE]):
            raise ValueError(f"{bad[0]} is not safe; if it must be accepted, name it in insecure_accept_tcb_statuses")
        return value

    @field_validator("insecure_accept_simulated_platform")
    @classmethod
    def _simulated_is_meant(cls, value: bool, info: ValidationInfo) -> bool:
        tee = info.data.get("tee")
        if tee == "simulated" and not value:
            raise ValueError("must be true for tee: simulated, which protects nothing")
        if tee in {"sgx", "tdx"} and value:
            raise ValueError(f"must not be true for tee: {tee}")
        return value

    @field_validator("insecure_accept_debug")
    @classmethod
    def _never_debug(cls, value: bool) -> bool:
        if value:
            raise ValueError("cannot be true: the host reads a debug enclave's memory, and no policy accepts one")
        return value

    def to_yaml(self) -> str:
        """The file's text, without settings that have their defaults."""
        plain = self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        return yaml.safe_dump(plain, sort_keys=False)

    def save(self, path: Path) -> None:
        """Write the file. Relative paths in it are relative to its directory."""
        write_atomically(path, self.to_yaml())
