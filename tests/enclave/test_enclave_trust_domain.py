"""The measured settings of a replica in RTMR 3 of its guest."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealserve.enclave.attesters import create_attester
from sealserve.enclave.measured import measured_settings, settings_digest, settings_register
from sealserve.enclave.settings import ReplicaSettings
from sealserve.enclave.trust_domain import REGISTER, SettingsNotMeasuredError, measure_settings
from sealserve.errors import InputError
from sealserve.evidence.errors import AttestationUnavailableError
from trust_domains import Domain, GuestPath, Kernel, TdxPlatform, make_guest, measurement

SETTINGS = measured_settings(deployment="mine", broker_ca=b"CA")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(TdxPlatform().machine)


@pytest.fixture
def register(tmp_path: Path, kernel: Kernel) -> GuestPath:
    return make_guest(tmp_path / "guest", kernel)[1]


def test_the_register_is_extended_with_the_digest_of_the_settings(register: GuestPath, kernel: Kernel) -> None:
    measure_settings(SETTINGS, register)
    assert kernel.domain.rtmrs[3] == settings_register(SETTINGS)
    assert kernel.domain.rtmrs[3] == hashlib.sha384(bytes(48) + settings_digest(SETTINGS)).digest()


def test_the_digest_is_the_one_that_is_documented() -> None:
    fields = [b"broker_ca_sha256", hashlib.sha256(b"CA").hexdigest().encode(), b"deployment", b"mine"]
    text = b"sealserve measured settings, version 1\0" + b"".join(len(f).to_bytes(8, "big") + f for f in fields)
    assert settings_digest(SETTINGS) == hashlib.sha384(text).digest()


@pytest.mark.parametrize(
    "other",
    [
        measured_settings(deployment="other", broker_ca=b"CA"),
        measured_settings(deployment="mine", broker_ca=b"another CA"),
    ],
    ids=["deployment", "broker CA"],
)
def test_other_settings_make_another_register(other: dict[str, str]) -> None:
    assert settings_register(other) != settings_register(SETTINGS)


def test_a_replica_that_is_started_again_finds_its_settings_there(register: GuestPath, kernel: Kernel) -> None:
    measure_settings(SETTINGS, register)
    measure_settings(SETTINGS, register)
    assert kernel.domain.rtmrs[3] == settings_register(SETTINGS)


def test_replicas_that_start_together_extend_it_once(register: GuestPath, kernel: Kernel) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: measure_settings(SETTINGS, register), range(8)))
    assert kernel.domain.rtmrs[3] == settings_register(SETTINGS)


def test_a_guest_that_ran_other_settings_never_runs_these(register: GuestPath, kernel: Kernel) -> None:
    """Or the host would start a replica with its own broker where the evidence says the owner's."""
    measure_settings(SETTINGS, register)
    with pytest.raises(SettingsNotMeasuredError, match="other settings"):
        measure_settings(measured_settings(deployment="mine", broker_ca=b"the host's"), register)
    assert kernel.domain.rtmrs[3] == settings_register(SETTINGS)


def test_a_register_that_something_else_uses_is_refused(tmp_path: Path) -> None:
    kernel = Kernel(TdxPlatform().machine, Domain().with_rtmr(3, measurement("something else")))
    _, register = make_guest(tmp_path / "guest", kernel)
    with pytest.raises(SettingsNotMeasuredError) as caught:
        measure_settings(SETTINGS, register)
    assert "Start the guest anew" in (caught.value.hint or "")
    assert kernel.domain.rtmrs[3] == measurement("something else")


def test_a_register_that_does_not_take_the_extension_is_refused(
    register: GuestPath, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "extend", lambda data: data)
    with pytest.raises(SettingsNotMeasuredError):
        measure_settings(SETTINGS, register)


def test_a_kernel_without_the_register_says_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(AttestationUnavailableError, match="does not offer RTMR 3") as caught:
        measure_settings(SETTINGS, tmp_path / "absent")
    assert "6.16" in (caught.value.hint or "")


def test_a_register_that_root_alone_may_extend_says_so(register: GuestPath, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(register), "open", refuse)
    with pytest.raises(AttestationUnavailableError, match="may not extend RTMR 3"):
        measure_settings(SETTINGS, register)


def settings(**changes: object) -> ReplicaSettings:
    values = {
        "name": "r",
        "listen": "127.0.0.1:0",
        "brokers": (),
        "broker_ca": Path("ca.pem"),
        "deployment": "mine",
        "sealed": Path(),
        "platform": None,
        "server_name": "r",
    }
    return ReplicaSettings(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.skipif(REGISTER.exists(), reason="this machine is a TDX guest")
def test_a_replica_for_trust_domains_does_not_run_elsewhere() -> None:
    with pytest.raises(AttestationUnavailableError, match="does not offer RTMR 3"):
        create_attester(settings(tee="tdx"), broker_ca=b"CA")


@pytest.mark.parametrize("changes", [{}, {"tee": "tdx", "platform": Path("p")}], ids=["missing", "too many"])
def test_the_simulated_platform_goes_with_simulated_replicas_only(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="--platform goes with --tee simulated"):
        create_attester(settings(**changes), broker_ca=b"CA")
