"""``/etc/sgx_default_qcnl.conf``: where Intel's quote provider library gets certificates and collateral.

The format is JSON, in which the library also reads comments; an older one, lines of ``NAME=VALUE``, it still reads.
Source: ``QuoteGeneration/qcnl`` in Intel's DCAP (``qcnl_config.cpp``, ``linux/sgx_default_qcnl.conf``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sealserve.deploy.clouds.profile import CloudProfile
from sealserve.errors import ConfigurationError, InputError

PATH = "/etc/sgx_default_qcnl.conf"

# A string, or a comment. One without an end reaches to the text's end, so that no text is searched more than once.
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"?|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)


@dataclass(frozen=True)
class QcnlSettings:
    """What counts in a configuration.

    :param collateral_service: as the library takes it: ``pccs_url`` if the file does not say.
    """

    pccs_url: str | None
    collateral_service: str | None
    verified_tls: bool


def render_qcnl(profile: CloudProfile, *, pccs: str | None = None) -> str:
    """The configuration for a machine of the profile. TLS is verified, always.

    :param pccs: URL of another cache than the profile's, with or without ``/sgx/certification/v4/``.
    :raises ConfigurationError: the profile needs a region. :raises InputError: ``pccs`` is not a URL of https.
    """
    profile.require_region()
    options = profile.pccs.options
    url = profile.pccs.url
    if pccs is not None:
        from sealserve.evidence import service_at  # heavy, and reading a deployment.yaml does not need it

        if pccs.startswith("http://"):
            raise InputError(
                "the address of the PCCS must begin with https://",
                hint="TLS to it is verified always. If it has an authority of its own, give that one to --pccs-ca.",
            )
        try:
            url = service_at(pccs).url("sgx", "")
        except ValueError as error:
            raise InputError(f"the address of the PCCS {error}") from None
        # Where the cloud gives the certificates of this very machine stays: nobody else may have them.
        options = {key: value for key, value in options.items() if key != "collateral_service"}
    settings = {
        "pccs_url": url,
        "use_secure_cert": True,
        "pccs_api_version": "3.1",  # revocation lists in DER, and not as hexadecimal digits
        "retry_times": 6,
        "retry_delay": 5,
        "pck_cache_expire_hours": 48,
        "verify_collateral_cache_expire_hours": 48,
        "local_cache_only": False,
        **options,
    }
    return json.dumps(settings, indent=2) + "\n"


def parse_qcnl(text: str) -> QcnlSettings:
    """Read a configuration as Intel's library does.

    :raises ConfigurationError: it is broken: the library would say so, or fall back to its defaults.
    """
    try:
        found = json.loads(_TOKEN.sub(_without_comment, text))
    except (ValueError, RecursionError):
        if text.lstrip().startswith("{"):
            raise ConfigurationError(f"{PATH} is not valid JSON") from None
        return _settings(_lines(text))
    if not isinstance(found, dict):
        raise ConfigurationError(f"{PATH} is not a JSON object")
    return _settings(found)


def _without_comment(token: re.Match[str]) -> str:
    text = token[0]
    unfinished = text.startswith("/*") and (len(text) < 4 or not text.endswith("*/"))
    return text if text.startswith('"') or unfinished else " "


def _settings(found: Mapping[str, Any]) -> QcnlSettings:
    url, service = found.get("pccs_url"), found.get("collateral_service")
    pccs = url if isinstance(url, str) else None
    return QcnlSettings(
        pccs_url=pccs,
        collateral_service=service if isinstance(service, str) else pccs,
        verified_tls=found.get("use_secure_cert") is not False,
    )


def _lines(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, value = "".join(line.split()).partition("=")
        if not name.startswith("#"):
            found[name.lower()] = value
    if str(found.get("use_secure_cert", "")).lower() == "false":
        found["use_secure_cert"] = False
    return found
