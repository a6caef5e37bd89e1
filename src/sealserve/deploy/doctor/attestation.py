"""What makes SGX quotes outside the enclave: AESM, Intel's quote provider and its configuration."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator

from sealserve.deploy.clouds.profile import REGION, Devices
from sealserve.deploy.clouds.qcnl import PATH, QcnlSettings, parse_qcnl
from sealserve.deploy.doctor.finding import Finding, Question
from sealserve.errors import ConfigurationError

_CONNECT_SECONDS = 1.0
_LIBRARY_DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_PROVIDERS = ("libdcap_quoteprov.so.1", "libdcap_quoteprov.so")  # in the order in which Intel's library tries them


def examine_aesm(question: Question) -> Iterator[Finding]:
    """The service that asks Intel's quoting enclave for quotes."""
    if question.tee != "sgx":
        return
    machine = question.machine
    name = (question.profile.devices if question.profile is not None else Devices()).aesm_socket
    status = machine.status(name)
    if machine.in_container:
        mend = f"Mount it: `docker run --volume {name}:{name} …`, with aesmd running outside."
    elif machine.status("/opt/intel/sgx-aesm-service") is None:
        mend = question.setup
    else:
        mend = "sudo systemctl enable --now aesmd; journalctl --unit aesmd"
    if status is None:
        yield Finding("aesm", "problem", f"AESM does not run: there is no {name}", mend)
        return
    if not stat.S_ISSOCK(status.st_mode):
        yield Finding("aesm", "problem", f"{name} is no socket", mend)
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            connection.connect(str(machine.path(name)))
    except OSError as error:
        yield Finding("aesm", "problem", f"nobody answers at {name} ({error.strerror or error})", mend)
        return
    yield Finding("aesm", "ok", f"AESM answers at {name}")


def examine_quote_provider(question: Question) -> Iterator[Finding]:
    """The library that gets the machine's certificates, and where it gets them."""
    if question.tee != "sgx":
        return
    machine = question.machine
    if any(
        machine.status(f"{directory}/{name}") is not None for directory in _LIBRARY_DIRECTORIES for name in _PROVIDERS
    ):
        yield Finding("quote-provider", "ok", "a quote provider library is installed")
    elif machine.in_container:
        yield Finding("quote-provider", "note", "there is no quote provider here; aesmd has its own, outside")
        return
    else:
        yield Finding("quote-provider", "problem", "there is no quote provider library", question.setup)
    text = machine.text(PATH)
    if text is None:
        yield Finding("qcnl", "problem", f"there is no {PATH}, or it cannot be read", question.setup)
        return
    try:
        settings = parse_qcnl(text)
    except ConfigurationError as error:
        yield Finding("qcnl", "problem", error.message, question.setup)
        return
    yield from _judge(question, settings)


def _judge(question: Question, settings: QcnlSettings) -> Iterator[Finding]:
    if not settings.verified_tls:
        yield Finding(
            "qcnl-tls",
            "problem",
            f"{PATH} switches the verification of TLS off (use_secure_cert is false): collateral can be withheld",
            f"sudo sed -i -E 's/(\"use_secure_cert\" *: *)false/\\1true/; s/^USE_SECURE_CERT=.*/USE_SECURE_CERT=TRUE/' "
            f"{PATH} && sudo systemctl restart aesmd",
        )
    wanted = question.pccs or (question.profile.pccs.url if question.profile is not None else None)
    if wanted is not None and REGION in wanted:
        wanted = None  # with --offline nobody has to say where the machine is
    if settings.pccs_url is None:
        yield Finding("qcnl", "problem", f"{PATH} names no PCCS", question.setup)
    elif question.profile is not None and wanted is not None and not _same(settings.pccs_url, wanted):
        yield Finding(
            "qcnl",
            "warning",
            f"{PATH} names {settings.pccs_url}, and not {wanted} as {question.profile.name} does",
            question.setup,
        )
    else:
        yield Finding("qcnl", "ok", f"{PATH} names {settings.pccs_url}")


def _same(one: str, other: str) -> bool:
    return one.rstrip("/").removesuffix("/sgx/certification/v4") == other.rstrip("/").removesuffix(
        "/sgx/certification/v4"
    )
