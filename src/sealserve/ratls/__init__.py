"""Evidence inside TLS: certificates that carry quotes, what a quote is bound to, and TLS that leaves judging to us.

An enclave makes its TLS key inside. A quote whose report data contains a hash of that key says: this key lives in this
enclave. Three places use it:

- RA-TLS certificates as Gramine makes them (:mod:`sealserve.ratls.certificate`): the quote stands in the certificate.
  They carry no nonce, so they prove which enclave made a key, and not when.
- Evidence bound to a nonce and, towards the key broker, to one TLS session (:mod:`sealserve.ratls.binding`): what our
  own protocols use. Replayed and relayed evidence is refused.
- TLS with peers whose certificates no authority signed (:mod:`sealserve.ratls.stream`,
  :mod:`sealserve.ratls.contexts`).

Nothing here appraises a quote; :mod:`sealserve.evidence` does.
"""

from sealserve.ratls.binding import broker_report_data, client_report_data
from sealserve.ratls.certificate import (
    CertificateEvidence,
    CertificateEvidenceError,
    EvidenceDisagreementError,
    KeyBindingError,
    extract_evidence,
    parse_certificate,
    spki_digest,
)
from sealserve.ratls.identity import TlsIdentity, create_identity

__all__ = [
    "CertificateEvidence",
    "CertificateEvidenceError",
    "EvidenceDisagreementError",
    "KeyBindingError",
    "TlsIdentity",
    "broker_report_data",
    "client_report_data",
    "create_identity",
    "extract_evidence",
    "parse_certificate",
    "spki_digest",
]
