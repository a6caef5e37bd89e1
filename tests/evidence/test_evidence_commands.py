"""``sealserve evidence show`` and ``verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, make_platform

from sealserve.cli.main import main
from sealserve.evidence import (
    AppraisalPolicy,
    Collateral,
    EnclaveReference,
    FixedCollateral,
    PolicyDocument,
    SimulatedPlatform,
    TrustRoot,
)
from sealserve.evidence.policy import CollateralSettings, MrEnclave, PlatformKind
from sealserve.ratls import TlsIdentity, client_report_data, create_identity
from sealserve.wire import attestation_pb2

MODEL = b"\x5a" * 32
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def files(tmp_path: Path, platform: SimulatedPlatform, quote: bytes) -> Path:
    (tmp_path / "quote").write_bytes(quote)
    (tmp_path / "root.pem").write_text(platform.root_pem)
    (tmp_path / "collateral.json").write_text(platform.collateral_json(now=NOW))
    PolicyDocument(
        tee="simulated",
        trust_root=Path("root.pem"),
        collateral=CollateralSettings(file=Path("collateral.json")),
        enclaves=(EnclaveReference(mrenclave=ENCLAVE.mrenclave),),
        insecure_accept_simulated_platform=True,
    ).save(tmp_path / "policy.yaml")
    return tmp_path


def test_show_explains_a_quote_and_does_not_judge_it(run: Run, files: Path) -> None:
    code, out, _ = run("evidence", "show", files / "quote")
    assert code == 0
    assert ENCLAVE.mrenclave.hex() in out
    assert "SIMULATED" in out
    assert "Nothing of this is verified" in out


def test_show_gives_json(run: Run, files: Path) -> None:
    code, out, _ = run("evidence", "show", files / "quote", "--json")
    assert code == 0
    assert json.loads(out)["isv_prod_id"] == 7


def test_show_refuses_what_is_no_quote(run: Run, files: Path) -> None:
    code, out, error = run("evidence", "show", files / "policy.yaml")
    assert (code, out) == (4, "")
    assert "not supported" in error
    code, _, error = run("evidence", "show", files / "root.pem")
    assert code == 4
    assert "the certificate carries no evidence" in error
    assert run("evidence", "show", files / "absent")[0] == 3


def test_verify_lists_every_check(run: Run, files: Path) -> None:
    arguments = ("--policy", files / "policy.yaml", "--time", NOW.isoformat(), "--report-data", REPORT_DATA.hex())
    code, out, _ = run("evidence", "verify", files / "quote", *arguments)
    assert code == 0
    assert out.count("✓") == 11
    assert "ACCEPTED\nIt was made for the report data given." in out


def test_verify_takes_a_time_without_a_zone_as_utc(run: Run, files: Path) -> None:
    policy = files / "policy.yaml"
    bound = ("--policy", policy, "--report-data", REPORT_DATA.hex())
    assert run("evidence", "verify", files / "quote", *bound, "--time", "2026-08-01T12:00:00")[0] == 0
    code, out, _ = run("evidence", "verify", files / "quote", "--policy", policy, "--time", "2026-10-01")
    assert code == 4
    assert "expired" in out


def test_verify_tells_scripts_why_not(run: Run, files: Path) -> None:
    arguments = ("--policy", files / "policy.yaml", "--time", NOW.isoformat(), "--json", "--report-data", "00" * 64)
    code, out, _ = run("evidence", "verify", files / "quote", *arguments)
    told = json.loads(out)
    assert code == 4
    assert told["accepted"] is False
    assert told["refusal"]["reason"] == "evidence-binding"
    assert told["evidence"]["mrenclave"] == ENCLAVE.mrenclave.hex()


@pytest.mark.parametrize(
    "wrong", [("--time", "soon"), ("--report-data", "zz"), ("--report-data", "00"), ("--policy", "")]
)
def test_a_wrong_option_is_a_usage_error(run: Run, files: Path, wrong: tuple[str, str]) -> None:
    code, _, _ = run("evidence", "verify", files / "quote", "--policy", files / "policy.yaml", *wrong)
    assert code in {2, 3}


def test_verify_needs_a_policy(run: Run, files: Path) -> None:
    assert run("evidence", "verify", files / "quote")[0] == 2


@pytest.fixture
def verify(run: Run, files: Path) -> Run:
    def call(file: Path, *arguments: Any) -> tuple[int, str, str]:
        return run("evidence", "verify", file, "--policy", files / "policy.yaml", "--time", NOW.isoformat(), *arguments)

    return call


# --- what evidence is kept in ---------------------------------------------------------------------------------------


@pytest.fixture
def identity(platform: SimulatedPlatform) -> TlsIdentity:
    class Attester:
        tee: Literal["simulated"] = "simulated"

        def quote(self, report_data: bytes) -> bytes:
            return platform.quote(ENCLAVE, report_data)

    return create_identity(Attester())


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_certificate_is_judged_with_the_key_it_is_for(
    run: Run, verify: Run, files: Path, identity: TlsIdentity, encoding: Encoding
) -> None:
    path = files / "certificate"
    path.write_bytes(identity.certificate.public_bytes(encoding))
    code, out, error = verify(path)
    assert code == 0, out + error
    assert "an RA-TLS certificate" in out
    assert "It was made for the certificate's key; when is not known." in out
    code, out, _ = run("evidence", "show", path, "--json")
    assert (code, json.loads(out)["mrenclave"]) == (0, ENCLAVE.mrenclave.hex())
    code, out, _ = verify(path, "--report-data", "00" * 64)
    assert code == 4


@pytest.fixture
def report(platform: SimulatedPlatform) -> dict[str, str]:
    nonce, key = bytes(range(32)), bytes(32)
    model = attestation_pb2.ServedModel(name="classifier", version=3, digest=MODEL)
    claims = attestation_pb2.Claims(replica="replica-1", models=[model]).SerializeToString()
    quote = platform.quote(ENCLAVE, client_report_data(nonce, key, claims))
    values = {"nonce": nonce, "key_sha256": key, "claims": claims, "quote": quote}
    return {name: value.hex() for name, value in values.items()}


def test_a_report_is_judged_with_its_nonce_key_and_claims(verify: Run, files: Path, report: dict[str, str]) -> None:
    path = files / "report.json"
    path.write_text(json.dumps({"accepted": True, **report}))
    code, out, _ = verify(path)
    assert code == 0
    assert "It was made for the nonce, the key and the claims of the report." in out
    assert f"Models: classifier version 3 ({MODEL.hex()[:16]}…)" in out
    path.write_text(json.dumps({**report, "claims": "a100"}))
    code, out, _ = verify(path)
    assert code == 4
    assert "made for another key or another request" in out.replace("\n", " ").replace("  ", " ")


def _listing(files: Path, *digests: bytes) -> None:
    policy = files / "policy.yaml"
    policy.write_text(policy.read_text() + f"models: {[digest.hex() for digest in digests]}\n")


def test_a_report_of_another_model_than_the_policys_is_refused(
    verify: Run, files: Path, report: dict[str, str]
) -> None:
    path = files / "report.json"
    path.write_text(json.dumps(report))
    _listing(files, bytes(32))
    code, out, _ = verify(path)
    assert code == 4
    assert "✗ Models: " in out
    assert "REFUSED" in out
    assert MODEL.hex() in out
    code, out, _ = verify(path, "--json")
    told = json.loads(out)
    assert (code, told["accepted"], told["steps"][-1]["outcome"]) == (4, False, "failed")
    assert "models" not in told


def test_a_report_of_the_policys_model_is_accepted_and_its_models_told(
    verify: Run, files: Path, report: dict[str, str]
) -> None:
    path = files / "report.json"
    path.write_text(json.dumps(report))
    _listing(files, MODEL, bytes(32))
    code, out, _ = verify(path, "--json")
    assert code == 0
    assert json.loads(out)["models"] == [{"name": "classifier", "version": 3, "digest": MODEL.hex()}]


@pytest.mark.parametrize(
    "forged",
    [
        {"models": [{"name": "classifier", "version": 3, "digest": "00" * 32}]},
        {"models": [{"name": "classifier", "version": 4, "digest": "5a" * 32}]},
        {"models": []},
        {"models": None},
        {"replica": "replica-2"},
        {"evidence": {"mrenclave": "00" * 32}},
        {"evidence": {"report_data": "00" * 64}},
        {"evidence": {"debug": 0}},
        {"evidence": "good"},
    ],
)
def test_a_report_that_says_in_plain_text_what_is_not_bound_is_refused(
    verify: Run, files: Path, report: dict[str, str], forged: dict[str, Any]
) -> None:
    path = files / "report.json"
    path.write_text(json.dumps({**report, **forged}))
    code, out, _ = verify(path)
    assert code == 4
    assert "Plain text" in out
    # Nor does it help to leave away what the claims are bound by.
    quote = {"quote": report["quote"], **forged}
    path.write_text(json.dumps(quote))
    bound = client_report_data(*(bytes.fromhex(report[name]) for name in ("nonce", "key_sha256", "claims")))
    assert verify(path, "--report-data", bound.hex())[0] == 4


def test_evidence_without_claims_is_refused_by_a_policy_that_lists_models(
    verify: Run, files: Path, identity: TlsIdentity
) -> None:
    (files / "certificate").write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    assert verify(files / "certificate")[0] == 0
    code, out, _ = verify(files / "quote", "--report-data", REPORT_DATA.hex())
    assert code == 0
    assert "- Models: not known" in out
    _listing(files, MODEL)
    for arguments in ((files / "certificate",), (files / "quote", "--report-data", REPORT_DATA.hex())):
        code, out, _ = verify(*arguments)
        assert code == 4
        assert "there are no claims" in " ".join(out.split())


def test_claims_count_only_if_the_quote_was_held_against_them(verify: Run, files: Path, report: dict[str, str]) -> None:
    """Report data given by hand is that of the quote, and not that of the file's claims."""
    path = files / "report.json"
    quote = (files / "quote").read_bytes().hex()
    path.write_text(json.dumps({**report, "quote": quote}))
    assert verify(path)[0] == 4
    assert verify(path, "--report-data", REPORT_DATA.hex())[0] == 0
    _listing(files, MODEL)
    assert verify(path, "--report-data", REPORT_DATA.hex())[0] == 4


def test_a_report_whose_certificate_is_another_keys_is_an_input_error(
    verify: Run, files: Path, report: dict[str, str], identity: TlsIdentity
) -> None:
    path = files / "report.json"
    for certificate in (identity.certificate.public_bytes(Encoding.PEM).decode(), "none", 5):
        path.write_text(json.dumps({**report, "certificate": certificate}))
        assert verify(path)[0] == 3


@pytest.mark.parametrize("change", [{"quote": 5}, {"quote": "xx"}, {"nonce": "00"}, {"key_sha256": "zz"}])
def test_a_report_that_is_damaged_is_an_input_error(
    verify: Run, files: Path, report: dict[str, str], change: dict[str, Any]
) -> None:
    path = files / "report.json"
    path.write_text(json.dumps({**report, **change}))
    assert verify(path)[0] == 3
    path.write_text("{")
    assert verify(path)[0] == 3


def test_collateral_is_explained_and_is_no_evidence(run: Run, verify: Run, files: Path) -> None:
    code, out, _ = run("evidence", "show", files / "collateral.json")
    assert code == 0
    for part in ("TCB info", "QE identity", "revocation list of the root CA", "revocation list of the PCK CA", "FMSPC"):
        assert part in out
    code, out, _ = run("evidence", "show", files / "collateral.json", "--json")
    assert json.loads(out)["evaluation_data_numbers"] == {"tcb_info": 20, "qe_identity": 20}
    code, _, error = verify(files / "collateral.json")
    assert code == 3
    assert "no evidence" in error


# --- explanations ---------------------------------------------------------------------------------------------------


def test_verify_explains_identity_tcb_and_dates(verify: Run, files: Path) -> None:
    code, out, _ = verify(files / "quote")
    assert code == 4, "a quote alone is bound to nothing"
    assert ENCLAVE.mrsigner.hex() in out
    assert "UpToDate: the platform has every fix" in out
    assert "advisories: none" in out
    assert "attribute names: INIT, MODE64BIT" in out
    assert out.count("days left") == 10
    assert "2026-08-01 11:55 to 2026-08-31 11:55  29 days left" in out
    assert "NOT ACCEPTED: genuine, but bound to nothing" in out


def test_verify_names_advisories_and_what_a_status_means(run: Run, files: Path) -> None:
    platform = make_platform(tcb_status="OutOfDate", advisory_ids=("INTEL-SA-00615", "INTEL-DOC-000001"))
    (files / "root.pem").write_text(platform.root_pem)
    (files / "collateral.json").write_text(platform.collateral_json(now=NOW))
    (files / "quote").write_bytes(platform.quote(ENCLAVE, REPORT_DATA))
    arguments = ("--policy", files / "policy.yaml", "--time", NOW.isoformat())
    code, out, _ = run("evidence", "verify", files / "quote", *arguments)
    assert code == 4
    assert "OutOfDate: the platform lacks fixes against known attacks" in " ".join(out.split())
    assert "https://www.intel.com/content/www/us/en/security-center/advisory/intel-sa-00615.html" in out
    assert "advisory: INTEL-DOC-000001" in out
    assert "The evidence is genuine, and the policy does not accept it:" in out
    assert "- the TCB status is OutOfDate (INTEL-SA-00615, INTEL-DOC-000001); accepted:" in " ".join(out.split())


def test_verify_shows_the_dates_of_collateral_that_has_expired(run: Run, files: Path) -> None:
    arguments = ("--policy", files / "policy.yaml", "--time", "2026-10-01")
    code, out, _ = run("evidence", "verify", files / "quote", *arguments)
    assert code == 4
    assert out.count("EXPIRED") == 3
    assert "REFUSED\nthe TCB info expired" in out
    code, out, _ = run("evidence", "verify", files / "quote", *arguments, "--json")
    parts = {item["part"]: item for item in json.loads(out)["validities"]}
    assert parts["TCB info"]["not_after"] == "2026-08-31T11:55:00+00:00"


def test_a_root_of_the_operators_own_is_told_from_intels(run: Run, files: Path) -> None:
    platform = make_platform(root_common_name="Intel SGX Root CA")
    authority = platform.authority
    assert not TrustRoot.from_der(platform.root_der).is_intel
    (files / "root.pem").write_text(platform.root_pem)
    policy = AppraisalPolicy(
        root=TrustRoot.from_certificate(authority.root),
        collateral=FixedCollateral(Collateral.from_json(platform.collateral_json(now=NOW))),
        platform=PlatformKind("simulated", insecure_accept_simulated_platform=True),
        enclaves=MrEnclave(ENCLAVE.mrenclave),
        clock=NOW.timestamp,
    )
    appraisal = policy.appraise_with_steps(platform.quote(ENCLAVE, REPORT_DATA), report_data=REPORT_DATA)
    assert appraisal.evidence is not None
    assert appraisal.evidence.own_root
    assert appraisal.evidence.root_fingerprint == TrustRoot.from_der(platform.root_der).fingerprint
    assert "which is not Intel's" in appraisal.steps[1].detail


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("command", ["show", "verify"])
def test_prose_fits_the_terminal_and_values_stay_whole(
    run: Run, files: Path, monkeypatch: pytest.MonkeyPatch, width: int, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    policy = ("--policy", files / "policy.yaml", "--time", NOW.isoformat()) if command == "verify" else ()
    _, out, _ = run("evidence", command, files / "quote", *policy)
    assert ENCLAVE.mrenclave.hex() in out
    assert REPORT_DATA.hex() in out
    for line in out.splitlines():
        assert len(line) <= width or len(line.split()) <= 2, line
        assert line == line.rstrip()


# --- import-ra-config -----------------------------------------------------------------------------------------------


@pytest.fixture
def original(tmp_path: Path) -> Path:
    switches = {f"verify_{name}": "on" for name in ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn")}
    entry = {"mr_enclave": "ab" * 32, "mr_signer": "cd" * 32, "isv_prod_id": "0", "isv_svn": "0"}
    path = tmp_path / "ra_config.json"
    path.write_text(json.dumps({**switches, "verify_mr_enclave": "off", "mrs": [entry]}))
    return path


def test_an_original_policy_is_taken_over_with_its_warnings(run: Run, original: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.yaml"
    code, out, error = run("evidence", "import-ra-config", original, "-o", target)
    assert code == 0
    assert "warning: verify_mr_enclave is off" in error
    assert "note: isv_svn becomes a minimum" in error
    assert str(target) in out
    assert AppraisalPolicy.load(target)
    code, _, error = run("evidence", "import-ra-config", original, "-o", target)
    assert code == 3
    assert "exists" in error


@pytest.mark.parametrize(
    ("collateral", "setting"),
    [
        ("azure", "service: azure"),
        ("https://pccs.example.com:8081/sgx/certification/v4/", "service: https://pccs.example.com"),
        ("collateral.json", "collateral: collateral.json"),
    ],
)
def test_the_new_policys_collateral_can_be_chosen(
    run: Run, original: Path, tmp_path: Path, collateral: str, setting: str
) -> None:
    target = tmp_path / "new.yaml"
    arguments = ("-o", target, "--collateral", collateral, "--json")
    code, out, _ = run("evidence", "import-ra-config", original, *arguments)
    assert code == 0
    assert json.loads(out)["warnings"]
    assert setting in target.read_text()
    code, _, error = run("evidence", "import-ra-config", original, "-o", tmp_path / "x", "--collateral", "http://a")
    assert code == 3
    assert "insecure_allow_http" in error


def test_an_original_policy_that_accepts_anything_is_not_taken_over(run: Run, original: Path, tmp_path: Path) -> None:
    found = json.loads(original.read_text())
    original.write_text(json.dumps({**found, "verify_mr_signer": "off"}))
    code, _, error = run("evidence", "import-ra-config", original, "-o", tmp_path / "new.yaml")
    assert code == 3
    assert "any enclave would be accepted" in " ".join(error.split())
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize(("name", "setting"), [("collateral.json", "collateral"), ("root.pem", "trust_root")])
def test_a_file_that_is_missing_is_told_with_the_policy_that_names_it(
    verify: Run, files: Path, name: str, setting: str
) -> None:
    (files / name).unlink()
    code, out, error = verify(files / "quote")
    assert code == 3
    assert f"`{setting}` in the policy {files / 'policy.yaml'}" in " ".join((out + error).split())


def test_roots_of_the_same_name_are_told_apart(verify: Run, files: Path) -> None:
    other = make_platform()
    (files / "root.pem").write_text(other.root_pem)
    code, out, _ = verify(files / "quote")
    assert code == 4
    assert out.count("(SHA-256 ") >= 2
