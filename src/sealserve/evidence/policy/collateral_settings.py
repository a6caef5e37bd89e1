"""``collateral`` in a policy file: the path of a file, or a section about a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from sealserve.configuration import RelativePath, Settings
from sealserve.evidence.collateral import CollateralSource
from sealserve.evidence.collateral_file import FileCollateral
from sealserve.evidence.roots import TrustRoot
from sealserve.evidence.service import CollateralCache, HttpClient, ServiceCollateral, service_at
from sealserve.evidence.service.http import NO_PROXY

_PROXY_SCHEMES = {"http", "https"}


class CollateralSettings(Settings):
    """Where collateral comes from. A file may be given by its path alone."""

    file: RelativePath | None = Field(None, description="a file in the JSON form of dcap-qvl")
    insecure_allow_http: bool = Field(False, description="fetch from http:// addresses, where anyone can interfere")
    service: str | None = Field(None, description="intel, azure, alibaba:REGION, or the URL of a PCCS")
    root_crl: str | None = Field(None, description="the URL of the root CA's revocation list, if the service has none")
    ca: RelativePath | None = Field(None, description="PEM file of the authority that certified the service")
    proxy: str | None = Field(None, description="the URL of a proxy, or none for a direct connection")
    cache: RelativePath | None = Field(None, description="a directory that keeps what was fetched")
    timeout_seconds: float = Field(15, gt=0, le=300, description="seconds that fetching may take")
    refresh_hours: float = Field(24, gt=0, le=720, description="the age at which collateral is renewed")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is empty; give it the path of a file, or a section with service")
        if isinstance(value, str | Path):
            return {"file": value}
        if not isinstance(value, dict | cls):
            raise ValueError("must be the path of a file, or a section with service")  # noqa: TRY004 - for pydantic
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.field_name is not None:
            raise ValueError("is empty; give it a value, or remove the line")
        return value

    @field_validator("service", "root_crl")
    @classmethod
    def _is_an_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        allowed = bool(info.data.get("insecure_allow_http"))
        if value is not None and info.field_name == "service":
            service_at(value, insecure_allow_http=allowed)
        elif value is not None:
            service_at("intel", root_crl=value, insecure_allow_http=allowed)
        return value

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, value: str | None) -> str | None:
        if value is None or value == NO_PROXY:
            return value
        try:
            parts = urlsplit(value)
            usable = parts.scheme in _PROXY_SCHEMES and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("must be a URL such as http://proxy.example.com:3128, or none")
        return value

    @model_validator(mode="after")
    def _file_or_service(self) -> Self:
        given = self.model_fields_set - {"file", "service"}
        if (self.file is None) == (self.service is None):
            raise ValueError("must be the path of a file, or a section with service")
        if self.service is None and given:
            raise ValueError(f"has {', '.join(sorted(given))}, which are for a service, and there is none")
        return self

    @model_serializer(mode="wrap")
    def _shortest_form(self, handler: SerializerFunctionWrapHandler) -> Any:
        return str(self.file) if self.file is not None else handler(self)

    def source(
        self, root: TrustRoot, *, clock: Callable[[], float] = time.time, named_by: str = ""
    ) -> CollateralSource:
        """What gives the collateral.

        :param root: whose collateral is kept. :param named_by: the policy that this is a part of, for errors.
        :raises ConfigurationError: ``ca`` holds no certificates.
        """
        if self.file is not None:
            return FileCollateral(self.file, named_by=named_by)
        if self.service is None:
            raise AssertionError("neither a file nor a service")  # the validator has seen to it
        return ServiceCollateral(
            service_at(self.service, root_crl=self.root_crl, insecure_allow_http=self.insecure_allow_http),
            root=root,
            http=HttpClient(ca=self.ca, proxy=self.proxy, insecure_allow_http=self.insecure_allow_http),
            cache=CollateralCache(self.cache) if self.cache is not None else None,
            timeout=self.timeout_seconds,
            refresh_after=timedelta(hours=self.refresh_hours),
            clock=clock,
        )
