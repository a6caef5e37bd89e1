"""Nobody gets an input who was not accepted: not a man in the middle, not a relay, not a replica that was swapped.

Every attacker here keeps all it was sent, so "not one byte" is looked up on its side of the wire.
"""

from __future__ import annotations

import pytest
from client_parties import BAD, DIGEST, MARKER, SECRET_INPUT, ManInTheMiddle, write_policy

from sealserve.client import Client, EvidenceMissingError, ModelNotAcceptedError, attest
from sealserve.errors import EvidenceError, PolicyRefusedError, TrustError
from sealserve.evidence import AppraisalPolicy, SimulatedAttester, create_simulated_platform
from sealserve.evidence.errors import EvidenceBindingError
from sealserve.ratls import client_report_data, create_identity
from sealserve.wire import attestation_pb2

INPUTS = {"images": SECRET_INPUT}
pytestmark = [pytest.mark.usefixtures("both_clients"), pytest.mark.parametrize("protocol", ["grpc", "rest"])]


def refuse(target: str, policy: AppraisalPolicy, error: type[TrustError]) -> TrustError:
    """Both ways of using the client refuse what answers at ``target``."""
    with pytest.raises(error):
        attest(target, policy)
    with Client(target, policy) as client, pytest.raises(error) as caught:
        client.predict(INPUTS, model="classifier", timeout=10)
    assert caught.value.exit_code == 4
    return caught.value


def test_a_man_in_the_middle_that_relays_the_evidence_gets_no_input(replica, bad_identity, policy):
    with ManInTheMiddle(bad_identity, replica.target) as attacker:
        refuse(attacker.target, policy, EvidenceBindingError)
        # The relay worked: the good replica did answer, and its evidence is genuine. It is for another key.
        assert replica.asked == 2
        assert attacker.plaintext
        assert MARKER not in attacker.plaintext
    assert replica.predicted == 0


def test_a_man_in_the_middle_with_an_accepted_enclave_of_its_own_key_elsewhere_gets_no_input(
    replica, identities, policy
):
    # Even the key of a second good replica does not make the first one's evidence fit.
    with ManInTheMiddle(identities[1], replica.target) as attacker:
        refuse(attacker.target, policy, EvidenceBindingError)
        assert MARKER not in attacker.plaintext
    assert replica.predicted == 0


def test_an_enclave_with_another_measurement_gets_no_input(bad_replica, policy):
    error = refuse(bad_replica.target, policy, PolicyRefusedError)
    assert BAD.mrenclave.hex() in error.message
    assert bad_replica.log == ["GetEvidence"] * 2


def test_old_evidence_is_refused(start_good, policy):
    recorded: list[attestation_pb2.EvidenceResponse] = []

    def replay(nonce: bytes) -> attestation_pb2.EvidenceResponse:
        recorded.append(replica.honest_evidence(nonce))
        return recorded[0]

    replica = start_good(evidence=replay)
    assert attest(replica.target, policy).name == "replica-1"
    refuse(replica.target, policy, EvidenceBindingError)
    assert replica.predicted == 0


def test_evidence_out_of_the_certificate_is_refused(start_good, identities, policy):
    """RA-TLS certificates carry quotes of the right enclave, without a nonce."""
    from sealserve.ratls import extract_evidence

    quote = extract_evidence(identities[0].certificate).quote
    replica = start_good(
        evidence=lambda _: attestation_pb2.EvidenceResponse(quote=quote, claims=replica.claims),
    )
    refuse(replica.target, policy, EvidenceBindingError)
    assert replica.predicted == 0


def test_changed_claims_are_refused(start_good, policy):
    def change(nonce: bytes) -> attestation_pb2.EvidenceResponse:
        evidence = replica.honest_evidence(nonce)
        claims = attestation_pb2.Claims.FromString(evidence.claims)
        claims.models[0].digest = bytes(32)
        return attestation_pb2.EvidenceResponse(quote=evidence.quote, claims=claims.SerializeToString())

    replica = start_good(evidence=change)
    refuse(replica.target, policy, EvidenceBindingError)
    assert replica.predicted == 0


def test_a_quote_from_another_platform_is_refused(start, tmp_path, policy):
    create_simulated_platform(tmp_path / "other")
    from client_parties import GOOD

    attester = SimulatedAttester(tmp_path / "other", GOOD)
    replica = start(create_identity(attester), attester)
    refuse(replica.target, policy, EvidenceError)
    assert replica.predicted == 0


@pytest.mark.parametrize("byte", [0, 60, 120, 400, 500, 1500, -1])
def test_a_changed_quote_is_refused(byte, start_good, policy):
    def change(nonce: bytes) -> attestation_pb2.EvidenceResponse:
        evidence = replica.honest_evidence(nonce)
        quote = bytearray(evidence.quote)
        quote[byte] ^= 1
        return attestation_pb2.EvidenceResponse(quote=bytes(quote), claims=evidence.claims)

    replica = start_good(evidence=change)
    refuse(replica.target, policy, TrustError)
    assert replica.predicted == 0


@pytest.mark.parametrize("quote", [b"", b"x", bytes(432), bytes(5000)])
def test_what_is_no_quote_is_refused(quote, start_good, policy):
    replica = start_good(
        evidence=lambda _: attestation_pb2.EvidenceResponse(quote=quote, claims=replica.claims),
    )
    refuse(replica.target, policy, TrustError)
    assert replica.predicted == 0


@pytest.mark.parametrize(
    "claims", [b"\xff", b"\x0a\xff", attestation_pb2.Claims(models=[{"digest": b"short"}]).SerializeToString()]
)
def test_attested_nonsense_is_refused(claims, start_good, good_attester, policy):
    def nonsense(nonce: bytes) -> attestation_pb2.EvidenceResponse:
        report_data = client_report_data(nonce, replica.identity.spki_digest, claims)
        return attestation_pb2.EvidenceResponse(quote=good_attester.quote(report_data), claims=claims)

    replica = start_good(evidence=nonsense)
    refuse(replica.target, policy, EvidenceMissingError)
    assert replica.predicted == 0


def test_evidence_without_end_is_refused(start_good, policy):
    def endless(nonce: bytes) -> attestation_pb2.EvidenceResponse:
        return attestation_pb2.EvidenceResponse(quote=bytes(3 << 20), claims=replica.claims)

    replica = start_good(evidence=endless)
    refuse(replica.target, policy, EvidenceMissingError)
    assert replica.predicted == 0


def test_a_model_that_the_policy_does_not_list_gets_no_input(replica, platform, tmp_path):
    policy = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{bytes(32).hex()}']\n")
    error = refuse(replica.target, policy, ModelNotAcceptedError)
    assert DIGEST.hex() in error.message
    assert replica.predicted == 0


def test_a_model_that_the_policy_lists_is_called(replica, platform, tmp_path):
    policy = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    with Client(replica.target, policy) as client:
        verified = client.predict(INPUTS, model="classifier").verified
    assert [(m.name, m.version, m.digest) for m in verified.claims.models] == [("classifier", 3, DIGEST)]


def test_a_replica_without_models_is_refused_where_models_are_listed(start_good, platform, tmp_path):
    policy = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    replica = start_good(models=())
    refuse(replica.target, policy, ModelNotAcceptedError)
    assert replica.predicted == 0


def test_one_other_model_beside_the_listed_one_is_refused(start_good, platform, tmp_path):
    policy = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    models = [("classifier", 1, DIGEST), ("classifier", 2, bytes(32))]
    replica = start_good(models=models)
    refuse(replica.target, policy, ModelNotAcceptedError)
    assert replica.predicted == 0


def test_a_replica_swapped_under_a_live_client_gets_no_input(replica, bad_replica, balance, policy):
    balancer = balance(replica.target)
    with Client(balancer.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        balancer.targets = [bad_replica.target]
        balancer.cut()
        with pytest.raises(PolicyRefusedError):
            client.predict(INPUTS, model="classifier")
        # And again: a refusal is not forgotten into acceptance.
        with pytest.raises(PolicyRefusedError):
            client.predict(INPUTS, model="classifier")
    assert bad_replica.predicted == 0
    assert replica.predicted == 1


def test_a_replica_swapped_for_one_with_another_key_is_checked_first(replica, second_replica, balance, policy):
    balancer = balance(replica.target)
    with Client(balancer.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        balancer.targets = [second_replica.target]
        balancer.cut()
        assert client.predict(INPUTS, model="classifier").replica == "replica-2"
    assert second_replica.log == ["GetEvidence", "Predict"]


def test_a_relay_that_slips_in_under_a_live_client_gets_no_input(replica, bad_identity, balance, policy):
    balancer = balance(replica.target)
    with ManInTheMiddle(bad_identity, replica.target) as attacker, Client(balancer.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        balancer.targets = [attacker.target]
        balancer.cut()
        with pytest.raises(EvidenceBindingError):
            client.predict(INPUTS, model="classifier")
        assert attacker.plaintext
        assert MARKER not in attacker.plaintext
    assert replica.predicted == 1


def test_a_balancer_that_mixes_good_and_bad_gives_inputs_to_the_good_alone(
    replica, bad_replica, second_replica, balance, policy
):
    balancer = balance(replica.target, bad_replica.target, second_replica.target)
    outcomes = []
    with Client(balancer.target, policy) as client:
        for _ in range(9):
            try:
                outcomes.append(client.predict(INPUTS, model="classifier").replica)
            except PolicyRefusedError:
                outcomes.append("refused")
            client.drop_connections()
    assert outcomes == ["replica-1", "refused", "replica-2"] * 3
    assert (replica.predicted, bad_replica.predicted, second_replica.predicted) == (3, 0, 3)
    assert MARKER not in balancer.seen


def test_a_policy_that_changed_holds_for_connections_that_are_open(replica, policy, platform, tmp_path):
    stricter = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{bytes(32).hex()}']\n")
    with Client(replica.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        client.policy = stricter
        for _ in range(2):
            with pytest.raises(ModelNotAcceptedError):
                client.predict(INPUTS, model="classifier")
        client.policy = policy
        client.predict(INPUTS, model="classifier")
    assert replica.predicted == 2
