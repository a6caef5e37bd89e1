"""Packages that SGX machines need, the repositories they come from, and the keys that sign those.

Fingerprints are pinned: a setup script takes a key only if it is one of these, so that whoever controls the web server
or the way to it cannot bring a key of their own.
"""

from __future__ import annotations

INTEL_REPOSITORY = "https://download.01.org/intel-sgx/sgx_repo/ubuntu"
INTEL_KEY = f"{INTEL_REPOSITORY}/intel-sgx-deb.key"
INTEL_FINGERPRINT = "150434D1488BF80308B69398E5C7F0FA1C6C6C3C"
"""Of the key that signs Intel's SGX repository, as several public projects pin it; its last 16 digits are what apt
names when the key is missing."""

GRAMINE_REPOSITORY = "https://packages.gramineproject.io/"
GRAMINE_FINGERPRINT_2021 = "EA3C2D624681AC968521587A5EE1171912234070"
"""For releases before Debian 13 and Ubuntu 24.04. Source: Gramine, Documentation/verify-sig.rst."""

GRAMINE_FINGERPRINTS_2024 = (
    "1CBF71E00FF0A5577A4EA6984B8D8EC2F8BE4647",
    "71807D6094DDF649D9591A53B951298EB73C9392",
)
"""For Debian 13, Ubuntu 24.04 and later: either signs. Source: as above."""

APT = (
    "sgx-aesm-service",
    "libsgx-aesm-ecdsa-plugin",
    "libsgx-aesm-quote-ex-plugin",
    "libsgx-dcap-ql",
    "libsgx-dcap-default-qpl",
    "libsgx-dcap-quote-verify",
    "libsgx-urts",
    "gramine",
)
"""Quote generation by AESM with Intel's quote provider, its verification library, and Gramine."""
