"""Trust domains without hardware: a platform that signs TDX quotes under a root of its own, and a guest's files.

The certificates do not say that they are simulated, because policies for ``tee: tdx`` accept no such ones; a policy
names the root as its own trust root, as one would name that of a private certification authority.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.x509.oid import NameOID

from sealserve.evidence.certificate_chain import SGX_EXTENSION
from sealserve.evidence.quote import INTEL_QE_VENDOR
from sealserve.evidence.simulated.authority import SimulatedAuthority
from sealserve.evidence.simulated.certificates import generate_key, issue_certificate, key_pem, pem
from sealserve.evidence.simulated.machine import SimulatedMachine
from sealserve.evidence.simulated.pck_extension import sgx_extension
from sealserve.evidence.simulated.profile import PlatformProfile
from sealserve.evidence.simulated.signing import raw_public_key, sign_raw
from sealserve.files import PRIVATE, write_atomically

TEE_TCB_SVN = bytes([5, 0, 2, *(0 for _ in range(13))])
OLD_TEE_TCB_SVN = bytes([3, *TEE_TCB_SVN[1:]])
SEPT_VE_DISABLE, DEBUG = 1 << 28, 1
_YEARS = timedelta(days=3650)


def measurement(text: str) -> bytes:
    """48 bytes that stand for what would be measured."""
    return hashlib.sha384(text.encode()).digest()


@dataclass(frozen=True)
class Domain:
    """What a quote says of a trust domain."""

    mrtd: bytes = measurement("firmware")
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (
        measurement("configuration"),
        measurement("kernel"),
        measurement("command line"),
        bytes(48),
    )
    attributes: int = SEPT_VE_DISABLE
    xfam: int = 0x602E7
    tee_tcb_svn: bytes = TEE_TCB_SVN

    def with_rtmr(self, index: int, value: bytes) -> Domain:
        return replace(self, rtmrs=tuple(value if at == index else old for at, old in enumerate(self.rtmrs)))

    def reference(self) -> dict[str, str]:
        """What a policy demands of it."""
        return {"mrtd": self.mrtd.hex(), **{f"rtmr{index}": value.hex() for index, value in enumerate(self.rtmrs)}}

    def report(self, report_data: bytes) -> bytes:
        return b"".join(
            (
                self.tee_tcb_svn,
                bytes(48 + 48 + 8),  # MRSEAM, MRSIGNERSEAM, SEAMATTRIBUTES
                struct.pack("<QQ", self.attributes, self.xfam),
                self.mrtd,
                bytes(3 * 48),  # MRCONFIGID, MROWNER, MROWNERCONFIG
                *self.rtmrs,
                report_data,
            )
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test {text}")])


@dataclass
class TdxPlatform:
    """An authority in the place of Intel, and one machine with TDX."""

    profile: PlatformProfile = field(default_factory=lambda: PlatformProfile(tcb_info_id="TDX", qe_identity_id="TD_QE"))

    def __post_init__(self) -> None:
        start = datetime.now(UTC) - timedelta(minutes=5)
        keys = {name: generate_key() for name in ("root", "ca", "signer", "pck")}

        def issue(subject: str, issuer: str, depth: int | None, extension: bytes | None = None) -> x509.Certificate:
            return issue_certificate(
                _name(subject),
                keys[subject].public_key(),
                issuer=_name(issuer),
                issuer_key=keys[issuer],
                not_before=start,
                validity=_YEARS,
                path_length=depth,
                extension=None if extension is None else x509.UnrecognizedExtension(SGX_EXTENSION, extension),
            )

        self.authority = SimulatedAuthority(
            root_key=keys["root"],
            root=issue("root", "root", 1),
            platform_ca_key=keys["ca"],
            platform_ca=issue("ca", "root", 0),
            tcb_signing_key=keys["signer"],
            tcb_signing=issue("signer", "root", None),
        )
        leaf = issue("pck", "ca", None, sgx_extension(self.profile, platform_instance_id=bytes(16)))
        self.machine = SimulatedMachine(
            pck_key=keys["pck"],
            attestation_key=generate_key(),
            chain_pem=pem(leaf, self.authority.platform_ca, self.authority.root).encode(),
        )

    @property
    def root_pem(self) -> str:
        return pem(self.authority.root)

    def collateral_json(self, *, tdx_status: str = "UpToDate") -> str:
        """:param tdx_status: what the TCB info says of this machine's level."""
        issued = datetime.now(UTC) - timedelta(minutes=5)
        collateral = json.loads(
            self.authority.collateral(self.profile, pck_serial=self.machine.pck_serial, issued=issued)
        )
        info = json.loads(collateral["tcb_info"])
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        info["tdxModule"] = module
        info["tdxModuleIdentities"] = []
        for level, svns in zip(info["tcbLevels"], (TEE_TCB_SVN, OLD_TEE_TCB_SVN, OLD_TEE_TCB_SVN), strict=True):
            level["tcb"]["tdxtcbcomponents"] = [{"svn": svn} for svn in svns]
        info["tcbLevels"][0]["tcbStatus"] = tdx_status
        collateral["tcb_info"] = json.dumps(info, separators=(",", ":"))
        collateral["tcb_info_signature"] = sign_raw(
            self.authority.tcb_signing_key, collateral["tcb_info"].encode()
        ).hex()
        return json.dumps(collateral)

    def quote(self, domain: Domain, report_data: bytes) -> bytes:
        return write_quote(self.machine, domain, report_data)

    def write_policy(self, directory: Path, *domains: dict[str, str], **settings: Any) -> Path:
        """A policy that accepts these trust domains, and what it names beside it."""
        (directory / "tdx-root.pem").write_text(self.root_pem)
        if not (directory / "tdx-collateral.json").exists():
            (directory / "tdx-collateral.json").write_text(self.collateral_json())
        document = {
            "tee": "tdx",
            "trust_root": "tdx-root.pem",
            "collateral": "tdx-collateral.json",
            "trust_domains": list(domains),
            **settings,
        }
        path = directory / "policy.yaml"
        path.write_text(json.dumps(document))
        return path

    def save_machine(self, directory: Path) -> None:
        """For :func:`~sealserve.evidence.simulated.directory.load_simulated_machine`, in another process."""
        (directory / "machine").mkdir(parents=True)
        for name, key in (("pck", self.machine.pck_key), ("attestation", self.machine.attestation_key)):
            write_atomically(directory / "machine" / f"{name}.key", key_pem(key), mode=PRIVATE)
        (directory / "machine" / "pck-chain.pem").write_bytes(self.machine.chain_pem)


def write_quote(machine: SimulatedMachine, domain: Domain, report_data: bytes) -> bytes:
    """A quote of version 4 (Intel, "TDX DCAP Quoting Library API", appendix A.3)."""
    head = struct.pack("<HHIHH16s20s", 4, 2, 0x81, 0, 0, INTEL_QE_VENDOR, bytes(20))
    signed = head + domain.report(report_data)
    qe_report, qe_signature = machine._endorsement
    authentication = bytes(range(32))
    chain = machine.chain_pem + b"\0"
    certification = b"".join(
        (
            qe_report,
            qe_signature,
            struct.pack("<H", len(authentication)) + authentication,
            struct.pack("<HI", 5, len(chain)) + chain,
        )
    )
    body = b"".join(
        (
            sign_raw(machine.attestation_key, signed),
            raw_public_key(machine.attestation_key.public_key()),
            struct.pack("<HI", 6, len(certification)) + certification,
        )
    )
    return signed + struct.pack("<I", len(body)) + body


class Kernel:
    """What the kernel of a TDX guest does: it counts writes, and has quotes made of what was written.

    :ivar failures: numbers of errors that the next reads of ``outblob`` fail with.
    """

    def __init__(self, machine: SimulatedMachine, domain: Domain | None = None) -> None:
        self.machine = machine
        self.domain = domain or Domain()
        self.provider = "tdx_guest"
        self.failures: list[int] = []
        self.quotes: list[bytes] = []
        self.written: dict[str, tuple[int, bytes]] = {}

    def make(self, report: Path) -> None:
        self.written[report.name] = (0, b"")
        (report / "provider").write_text(f"{self.provider}\n")
        (report / "generation").write_text("0\n")
        for name in ("inblob", "outblob"):
            (report / name).touch()

    def write(self, report: Path, data: bytes) -> None:
        generation = self.written[report.name][0] + 1
        self.written[report.name] = (generation, data)
        (report / "generation").write_text(f"{generation}\n")

    def read(self, report: Path) -> None:
        if self.failures and (number := self.failures.pop(0)):
            raise OSError(number, f"error {number}")
        quote = self.quote(self.written[report.name][1])
        self.quotes.append(quote)
        (report / "outblob").write_bytes(quote)

    def quote(self, report_data: bytes) -> bytes:
        return write_quote(self.machine, self.domain, report_data)

    def extend(self, data: bytes) -> bytes:
        """RTMR 3."""
        self.domain = self.domain.with_rtmr(3, hashlib.sha384(self.domain.rtmrs[3] + data).digest())
        return self.domain.rtmrs[3]


class GuestPath(type(Path())):  # type: ignore[misc]
    """A real path of a real tree, whose files behave as those of a TDX guest's kernel do.

    Directories that are made get the files of a report; what is written to ``inblob`` counts when it is closed, as in
    configfs; a quote is made when ``outblob`` is opened; and a register takes what is written as an extension.
    """

    kernel: ClassVar[Kernel]

    def mkdir(self, *arguments: Any, **options: Any) -> None:
        super().mkdir(*arguments, **options)
        self.kernel.make(Path(self))

    def rmdir(self) -> None:
        shutil.rmtree(Path(self))

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        match self.name, mode:
            case "inblob", "wb":
                return _Inblob(self)
            case "outblob", "rb":
                self.kernel.read(Path(self).parent)
            case name, "r+b" if name.startswith("rtmr"):
                return _Register(self)
        return super().open(mode, *arguments, **options)


class _Inblob(io.BytesIO):
    def __init__(self, path: GuestPath) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            self._path.kernel.write(Path(self._path).parent, self.getvalue())
        super().close()


class _Register(io.FileIO):
    def __init__(self, path: GuestPath) -> None:
        super().__init__(str(path), "r+")
        self._path = path

    def write(self, data: Any) -> int:
        if self.tell() != 0 or len(data) != 48:
            raise OSError(22, "Invalid argument")
        return super().write(self._path.kernel.extend(bytes(data)))


def make_guest(directory: Path, kernel: Kernel) -> tuple[GuestPath, GuestPath]:
    """The stand-in tree. :returns: where reports are made, and RTMR 3."""
    path = type("BoundGuestPath", (GuestPath,), {"kernel": kernel})
    reports, register = directory / "report", directory / "rtmr3:sha384"
    reports.mkdir(parents=True)
    register.write_bytes(kernel.domain.rtmrs[3])
    return path(reports), path(register)
