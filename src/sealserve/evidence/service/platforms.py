"""Which collateral a quote needs: it differs by TEE, kind of platform, and certification authority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from sealserve.evidence.certificate_chain import PckChain
from sealserve.evidence.certificates import CERTIFICATE_ERRORS, display_name
from sealserve.evidence.errors import QuoteUnsupportedError, SignatureInvalidError
from sealserve.evidence.quote import Quote


@dataclass(frozen=True)
class PlatformKey:
    """What one set of collateral is for.

    :param fmspc: 6 bytes. :param ca: which CA certified the machine.
    """

    tee: Literal["sgx", "tdx"]
    fmspc: bytes
    ca: Literal["processor", "platform"]

    @classmethod
    def of(cls, quote: Quote) -> PlatformKey:
        """What a quote needs. Nothing is verified.

        :raises QuoteUnsupportedError: its machine was certified by neither of the two CAs.
        """
        names = quote.chain.authority_name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        text = str(names[0].value).lower() if names else ""
        for ca in ("processor", "platform"):
            if f"pck {ca} ca" in text:
                return cls(quote.tee, quote.chain.extension.fmspc, "processor" if ca == "processor" else "platform")
        issuer = display_name(quote.chain.authority_name)
        raise QuoteUnsupportedError(f"no service has collateral for machines that {issuer} certified")

    def __str__(self) -> str:
        return f"{self.tee}-{self.fmspc.hex()}-{self.ca}"


def check_issued(chain: PckChain) -> None:
    """Each certificate of a quote's chain must be signed by the next, before anything is fetched on its word.

    :raises SignatureInvalidError: one is not.
    """
    try:
        chain.leaf.verify_directly_issued_by(chain.authority)
        chain.authority.verify_directly_issued_by(chain.root)
    except (*CERTIFICATE_ERRORS, InvalidSignature) as error:
        raise SignatureInvalidError("the certificate chain of the quote is not signed by those it names") from error
