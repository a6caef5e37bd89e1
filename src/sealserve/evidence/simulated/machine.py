"""The part that an SGX machine plays: its PCK certificate, its attestation key, and the enclave that signs quotes."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.evidence.attester import check_report_data
from sealserve.evidence.certificate_chain import SGX_EXTENSION
from sealserve.evidence.measurement import SimulatedEnclave
from sealserve.evidence.simulated import quote_writer
from sealserve.evidence.simulated.authority import SimulatedAuthority
from sealserve.evidence.simulated.certificates import generate_key, issue_certificate, name, pem
from sealserve.evidence.simulated.endorsements import QUOTING_ENCLAVE
from sealserve.evidence.simulated.pck_extension import sgx_extension
from sealserve.evidence.simulated.profile import (
    CERTIFICATE_VALIDITY,
    CURRENT_PCE_SVN,
    CURRENT_SVNS,
    WARNING,
    PlatformProfile,
)
from sealserve.evidence.simulated.signing import raw_public_key, sign_raw

# dcap-qvl, like Intel's library, expects 32 bytes; Intel's quoting enclave fills in 0, 1, … 31.
_AUTHENTICATION_DATA = bytes(range(32))


@dataclass(frozen=True)
class SimulatedMachine:
    """The keys of a simulated SGX machine.

    :param chain_pem: PCK certificate, platform CA, root, as the quote carries them.
    """

    pck_key: ec.EllipticCurvePrivateKey
    attestation_key: ec.EllipticCurvePrivateKey
    chain_pem: bytes
    _endorsement: tuple[bytes, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # The quoting enclave's report binds the attestation key; it stays the same as long as the key does.
        binding = hashlib.sha256(raw_public_key(self.attestation_key.public_key()) + _AUTHENTICATION_DATA).digest()
        report = quote_writer.report_body(
            QUOTING_ENCLAVE, cpu_svn=bytes(CURRENT_SVNS), report_data=binding + bytes(32), provision_key=True
        )
        object.__setattr__(self, "_endorsement", (report, sign_raw(self.pck_key, report)))

    @classmethod
    def generate(
        cls,
        profile: PlatformProfile,
        authority: SimulatedAuthority,
        *,
        not_before: datetime,
        validity: timedelta = CERTIFICATE_VALIDITY,
    ) -> SimulatedMachine:
        """A new machine that the authority certifies."""
        pck_key = generate_key()
        extension = sgx_extension(profile, platform_instance_id=secrets.token_bytes(16))
        certificate = issue_certificate(
            name(f"{WARNING} SGX PCK Certificate"),
            pck_key.public_key(),
            issuer=authority.platform_ca.subject,
            issuer_key=authority.platform_ca_key,
            not_before=not_before,
            validity=validity,
            extension=x509.UnrecognizedExtension(SGX_EXTENSION, extension),
        )
        return cls(
            pck_key=pck_key,
            attestation_key=generate_key(),
            chain_pem=pem(certificate, authority.platform_ca, authority.root).encode(),
        )

    @property
    def pck_serial(self) -> int:
        """The serial number of the PCK certificate."""
        return x509.load_pem_x509_certificate(self.chain_pem).serial_number

    def quote(self, enclave: SimulatedEnclave, report_data: bytes) -> bytes:
        """An SGX quote of version 3 for whatever enclave the caller claims to be.

        :param report_data: 64 bytes.
        :raises AttestationError: ``report_data`` has another size.
        """
        check_report_data(report_data)
        signed = quote_writer.header(
            qe_svn=QUOTING_ENCLAVE.isv_svn,
            pce_svn=CURRENT_PCE_SVN,
            user_data=hashlib.sha256(self.chain_pem).digest()[:16] + bytes(4),
        ) + quote_writer.report_body(enclave, cpu_svn=bytes(CURRENT_SVNS), report_data=report_data)
        qe_report, qe_report_signature = self._endorsement
        return signed + quote_writer.signature_data(
            signature=sign_raw(self.attestation_key, signed),
            attestation_key=raw_public_key(self.attestation_key.public_key()),
            qe_report=qe_report,
            qe_report_signature=qe_report_signature,
            authentication_data=_AUTHENTICATION_DATA,
            chain_pem=self.chain_pem + b"\0",  # Intel's quotes end the chain with a NUL.
        )
