"""Trust roots: whose platforms are believed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.errors import ConfigurationError
from sealserve.evidence.certificates import CERTIFICATE_ERRORS, display_name, is_simulated
from sealserve.files import read_file

# SHA-256 of Intel's SGX Root CA certificate in DER, which the verifier library has built in. The certificate is
# published at https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem.
_INTEL_FINGERPRINT = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


@dataclass(frozen=True)
class TrustRoot:
    """The root certificate that every chain must lead to.

    :param fingerprint: SHA-256 of the certificate in DER. :param der: the certificate; none for Intel's built-in root.
    :param name: for people. :param simulated: its subject carries the marker of a simulated platform.
    """

    fingerprint: bytes
    der: bytes | None
    name: str
    simulated: bool

    @classmethod
    def intel(cls) -> TrustRoot:
        """Intel's production root."""
        return cls(fingerprint=bytes.fromhex(_INTEL_FINGERPRINT), der=None, name="Intel SGX Root CA", simulated=False)

    @classmethod
    def from_der(cls, der: bytes) -> TrustRoot:
        """Another root.

        :raises ConfigurationError: the bytes are no certificate.
        """
        try:
            return cls.from_certificate(x509.load_der_x509_certificate(der))
        except CERTIFICATE_ERRORS as error:
            raise ConfigurationError("the trust root is not a certificate in DER") from error

    @classmethod
    def from_pem(cls, path: Path) -> TrustRoot:
        """Another root, from a PEM file that holds exactly one certificate.

        :raises ConfigurationError: the file holds something else. :raises InputError: it cannot be read.
        """
        try:
            certificates = x509.load_pem_x509_certificates(read_file(path, limit=1 << 16))
        except CERTIFICATE_ERRORS as error:
            raise ConfigurationError(
                f"{path} holds no certificate in PEM", hint="A trust root is one root certificate in PEM."
            ) from error
        if len(certificates) != 1:
            raise ConfigurationError(
                f"{path} holds {len(certificates)} certificates", hint="A trust root is one root certificate in PEM."
            )
        return cls.from_certificate(certificates[0])

    @classmethod
    def from_certificate(cls, certificate: x509.Certificate) -> TrustRoot:
        """Another root. Intel's own certificate gives the same as :meth:`intel`."""
        der = certificate.public_bytes(Encoding.DER)
        root = cls(
            fingerprint=hashlib.sha256(der).digest(),
            der=der,
            name=_common_name(certificate),
            simulated=is_simulated(certificate),
        )
        return cls.intel() if root.is_intel else root

    @property
    def is_intel(self) -> bool:
        """Whether this is Intel's production root."""
        return self.fingerprint == bytes.fromhex(_INTEL_FINGERPRINT)

    @property
    def description(self) -> str:
        """The root for people: a root other than Intel's is told from it, whatever its name says."""
        if self.is_intel:
            return self.name
        return f"{self.name}, which is not Intel's (SHA-256 {self.fingerprint.hex()[:16]}…)"

    def matches(self, certificate: x509.Certificate) -> bool:
        """Whether ``certificate`` is this root, to the last bit."""
        return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest() == self.fingerprint


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else display_name(certificate.subject)
