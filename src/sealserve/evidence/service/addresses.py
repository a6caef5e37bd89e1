"""Where collateral is served: services by name, and by URL.

Only the addresses are known here. Whoever answers there must show a TLS certificate for them, and what it gives must be
signed by Intel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_API = "/sgx/certification/v4"
_OTHER_API = re.compile(r"/(sgx|tdx)/certification(/v[0-9]+)?$")

# The root CA's own certificate names this address as its CRL distribution point.
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

# Intel: https://api.portal.trustedservices.intel.com/content/documentation.html
_INTEL = "https://api.trustedservices.intel.com"
# Azure: https://learn.microsoft.com/azure/security/fundamentals/trusted-hardware-identity-management
_AZURE = "https://global.acccache.azure.net"
# Alibaba Cloud, one service a region:
# https://www.alibabacloud.com/help/en/ecs/user-guide/build-an-sgx-encrypted-computing-environment
_ALIBABA = re.compile(r"alibaba:(?P<region>[a-z]{2}-[a-z0-9]+(-[a-z0-9]+)*)")


@dataclass(frozen=True)
class Service:
    """A provisioning certification service or a cache of it, API version 4.

    :param name: for people. :param base: the URL before ``/sgx/certification/v4``.
    :param root_crl: the URL of the root CA's revocation list, which Intel's service does not serve by its API.
    """

    name: str
    base: str
    root_crl: str

    def url(self, tee: str, path: str) -> str:
        """The URL of a part, e.g. ``url("sgx", "qe/identity")``."""
        return f"{self.base}/{tee}/certification/v4/{path}"

    @property
    def encrypted(self) -> bool:
        """Whether all of it is fetched over TLS."""
        return all(urlsplit(url).scheme == "https" for url in (self.base, self.root_crl))


def named_services() -> tuple[str, ...]:
    """The names that :func:`service_at` knows, for people."""
    return ("intel", "azure", "alibaba:REGION")


def service_at(text: str, *, root_crl: str | None = None, insecure_allow_http: bool = False) -> Service:
    """The service with a name, or at a URL with or without ``/sgx/certification/v4``.

    :param root_crl: the URL of the root CA's revocation list, if it is not ``rootcacrl`` of the service.
    :param insecure_allow_http: accept ``http://``.
    :raises ValueError: it is neither; the text says what is wrong with it.
    """
    if root_crl is not None:
        root_crl = _checked(root_crl, insecure_allow_http=insecure_allow_http)
    if text == "intel":
        return Service("Intel's service", _INTEL, root_crl or INTEL_ROOT_CRL)
    if text == "azure":
        return Service("Azure's service", _AZURE, root_crl or INTEL_ROOT_CRL)
    if match := _ALIBABA.fullmatch(text):
        region = match["region"]
        base = f"https://sgx-dcap-server.{region}.aliyuncs.com"
        return Service(f"Alibaba Cloud's service in {region}", base, root_crl or f"{base}{_API}/rootcacrl")
    if "://" not in text:
        raise ValueError(f"must be {', '.join(named_services())}, or a URL such as https://pccs.example.com:8081")
    base = _checked(text, insecure_allow_http=insecure_allow_http).removesuffix("/").removesuffix(_API)
    if match := _OTHER_API.search(base):
        raise ValueError(f"must be the address of API version 4, and this ends in {match[0]}")
    return Service(urlsplit(base).netloc, base, root_crl or f"{base}{_API}/rootcacrl")


def _checked(url: str, *, insecure_allow_http: bool) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise ValueError("must be a URL that begins with https:// and names a host")
    if any(not char.isprintable() or char.isspace() for char in url):
        raise ValueError("has a blank or a control character in it")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError("must not have a user name, a password, a query or a fragment")
    if parts.scheme == "http" and not insecure_allow_http:
        raise ValueError(
            "must begin with https://: over http:// anyone on the way can withhold a revocation; "
            "if it must be, set insecure_allow_http"
        )
    return url
