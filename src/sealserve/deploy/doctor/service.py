"""The service that has collateral: whether it answers over verified TLS, and how old what it gives is."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography import x509

from sealserve.deploy.clouds.qcnl import PATH, parse_qcnl
from sealserve.deploy.doctor.clock import days_left, judge_offset
from sealserve.deploy.doctor.finding import Finding, Level, Question
from sealserve.errors import ConfigurationError, SealserveError
from sealserve.evidence import Service, service_at
from sealserve.evidence.service import HttpClient
from sealserve.evidence.service.protocol import revocation_list, signed_member

SECONDS = 6.0
"""How long all requests together may take."""

_FEW_DAYS = 2.0


def examine_service(question: Question) -> Iterator[Finding]:
    """The PCCS of the machine, and the service that verifiers ask, if that is another."""
    http = question.http
    if question.offline:
        yield Finding("pccs", "note", "no service was asked (--offline)")
        return
    if http is None:
        level: Level = "note" if question.tee == "simulated" else "warning"
        text = "no service can be asked: the Python package urllib3 is not installed"
        yield Finding("pccs", level, text, "pip install '.[client]'")
        return
    deadline = time.monotonic() + SECONDS
    offset: Finding | None = None
    for check, text in _addresses(question):
        try:
            service = service_at(text)
        except ValueError as error:
            yield Finding(check, question.needed_for("sgx", "tdx"), f"the address {text} {error}", question.setup)
            continue
        answer = yield from _ask(question, check, service, http, deadline)
        offset = offset or answer
    if offset is not None:
        yield offset


def _addresses(question: Question) -> list[tuple[str, str]]:
    """What to look at (name of the check, address), each service once."""
    if question.pccs is not None:
        return [("pccs", question.pccs)]
    if question.profile is not None:
        pccs: str | None = question.profile.pccs.url
        collateral = question.profile.collateral
    else:
        pccs, collateral = _of_qcnl(question), "intel"
    if question.tee == "simulated" or not pccs:
        return [("collateral-service", collateral)]
    found = [("pccs", pccs)]
    # A PCCS of one's own, or a cloud's inside its network, has what Intel signs: asking one of them is enough.
    if question.profile is not None and "collateral_service" in question.profile.pccs.options:
        found.append(("collateral-service", collateral))
    return found


def _of_qcnl(question: Question) -> str | None:
    text = question.machine.text(PATH)
    try:
        return None if text is None else parse_qcnl(text).pccs_url
    except ConfigurationError:
        return None


def _ask(
    question: Question, check: str, service: Service, http: HttpClient, deadline: float
) -> Generator[Finding, None, Finding | None]:
    """Findings about one service; returns the one about the clock, if there was an answer."""
    level = question.needed_for("sgx", "tdx")
    before = time.time()
    try:
        identity = http.get(service.url("tdx" if question.tee == "tdx" else "sgx", "qe/identity"), deadline=deadline)
    except SealserveError as error:
        yield Finding(check, level, f"{service.name}: {error.message}", error.hint or _mend(service))
        return None
    offset = judge_offset(question, identity.headers.get("date"), before, time.time())
    yield Finding(check, "ok", f"{service.name} answers, with a valid TLS certificate")
    dates: dict[str, datetime] = {}
    try:
        dates["the quoting enclave's identity"] = _next_update(identity.body)
        for part, url in (
            ("the revocation list of machines", service.url("sgx", "pckcrl?ca=platform&encoding=der")),
            ("the root's revocation list", service.root_crl),
        ):
            dates[part] = _end_of_list(http.get(url, deadline=deadline).body)
    except (SealserveError, ValueError, OverflowError) as error:
        text = error.message if isinstance(error, SealserveError) else "it gives something else than collateral"
        yield Finding("collateral", level, f"{service.name}: {text}", _mend(service))
        return offset
    yield _freshness(service, dates, level)
    return offset


def _freshness(service: Service, dates: dict[str, datetime], level: Level) -> Finding:
    part, end = min(dates.items(), key=lambda item: item[1])
    left = days_left(end, time.time())
    text = f"{part} of {service.name} "
    if left < 0:
        return Finding("collateral", level, f"{text}expired at {end:%Y-%m-%d %H:%M} UTC", _mend(service))
    if left < _FEW_DAYS:
        return Finding("collateral", "warning", f"{text}expires at {end:%Y-%m-%d %H:%M} UTC", _mend(service))
    return Finding("collateral", "ok", f"collateral of {service.name} is valid until {end:%Y-%m-%d} at least")


def _next_update(body: bytes) -> datetime:
    document = json.loads(signed_member(body, "enclaveIdentity")[0])
    if not isinstance(document, dict):
        raise ValueError("the identity is no JSON object")  # noqa: TRY004 - as everything else that it can be
    return datetime.fromisoformat(str(document.get("nextUpdate"))).astimezone(UTC)


def _end_of_list(body: bytes) -> datetime:
    end = x509.load_der_x509_crl(revocation_list(body, "service")).next_update_utc
    if end is None:
        raise ValueError("the list does not say when it ends")
    return end


def _mend(service: Service) -> str:
    host = urlsplit(service.base).hostname
    if host in {"localhost", "127.0.0.1", "::1"}:
        return "sudo systemctl restart pccs; journalctl --unit pccs"
    return f"curl --verbose --output /dev/null {shlex.quote(service.url('sgx', 'qe/identity'))}"
