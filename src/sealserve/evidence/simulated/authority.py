"""The part that Intel plays for real platforms: root CA, platform CA, and the signer of TCB info and QE identity."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.evidence.simulated.certificates import (
    generate_key,
    issue_certificate,
    issue_revocation_list,
    name,
    pem,
)
from sealserve.evidence.simulated.endorsements import qe_identity, tcb_info
from sealserve.evidence.simulated.profile import (
    COLLATERAL_VALIDITY,
    ROOT_CRL_VALIDITY,
    WARNING,
    PlatformProfile,
)
from sealserve.evidence.simulated.signing import sign_raw

_ROOT_VALIDITY = timedelta(days=25 * 365)
_AUTHORITY_VALIDITY = timedelta(days=15 * 365)


@dataclass(frozen=True)
class SimulatedAuthority:
    """Keys and certificates of a simulated certification authority."""

    root_key: ec.EllipticCurvePrivateKey
    root: x509.Certificate
    platform_ca_key: ec.EllipticCurvePrivateKey
    platform_ca: x509.Certificate
    tcb_signing_key: ec.EllipticCurvePrivateKey
    tcb_signing: x509.Certificate

    @classmethod
    def generate(cls, profile: PlatformProfile, *, not_before: datetime) -> SimulatedAuthority:
        """Fresh keys and certificates that are valid from ``not_before``."""
        root_key, platform_key, signing_key = generate_key(), generate_key(), generate_key()
        root_name = name(profile.root_common_name)

        def issue(
            subject: x509.Name, key: ec.EllipticCurvePrivateKey, validity: timedelta, path_length: int | None
        ) -> x509.Certificate:
            return issue_certificate(
                subject,
                key.public_key(),
                issuer=root_name,
                issuer_key=root_key,
                not_before=not_before,
                validity=validity,
                path_length=path_length,
            )

        return cls(
            root_key=root_key,
            root=issue(root_name, root_key, _ROOT_VALIDITY, 1),
            platform_ca_key=platform_key,
            platform_ca=issue(name(f"{WARNING} SGX PCK Platform CA"), platform_key, _AUTHORITY_VALIDITY, 0),
            tcb_signing_key=signing_key,
            tcb_signing=issue(name(f"{WARNING} SGX TCB Signing"), signing_key, _AUTHORITY_VALIDITY, None),
        )

    def collateral(
        self,
        profile: PlatformProfile,
        *,
        pck_serial: int,
        issued: datetime,
        validity: timedelta = COLLATERAL_VALIDITY,
        root_crl_validity: timedelta = ROOT_CRL_VALIDITY,
    ) -> str:
        """Everything a verifier needs beside the quote and the root, as the JSON that ``dcap-qvl`` reads.

        Keys: ``pck_crl_issuer_chain``, ``root_ca_crl``, ``pck_crl``, ``tcb_info_issuer_chain``, ``tcb_info``,
        ``tcb_info_signature``, ``qe_identity_issuer_chain``, ``qe_identity``, ``qe_identity_signature``; chains in
        PEM, lists and signatures in hex.

        :param pck_serial: the serial number of the machine's PCK certificate.
        """
        tcb = tcb_info(profile, issued=issued, validity=validity)
        identity = qe_identity(profile, issued=issued, validity=validity)
        root_crl = issue_revocation_list(
            self.root.subject,
            self.root_key,
            issued=issued,
            validity=root_crl_validity,
            revoked=[self.platform_ca.serial_number] if profile.revoked_platform_ca else [],
        )
        pck_crl = issue_revocation_list(
            self.platform_ca.subject,
            self.platform_ca_key,
            issued=issued,
            validity=validity,
            revoked=[pck_serial] if profile.revoked_pck else [],
        )
        signer_chain = pem(self.tcb_signing, self.root)
        return json.dumps(
            {
                "pck_crl_issuer_chain": pem(self.platform_ca, self.root),
                "root_ca_crl": root_crl.hex(),
                "pck_crl": pck_crl.hex(),
                "tcb_info_issuer_chain": signer_chain,
                "tcb_info": tcb,
                "tcb_info_signature": sign_raw(self.tcb_signing_key, tcb.encode()).hex(),
                "qe_identity_issuer_chain": signer_chain,
                "qe_identity": identity,
                "qe_identity_signature": sign_raw(self.tcb_signing_key, identity.encode()).hex(),
            },
            indent=1,
        )
