"""A simulated platform, enclaves on it, and a policy that accepts one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from client_blocking import BlockingAsyncClient, attest_by_asyncio
from client_parties import BAD, GOOD, Balancer, Owner, Replica, write_policy
from client_rest_parties import RestReplica

from sealserve.client import DEFAULT_SERVER_NAME
from sealserve.evidence import AppraisalPolicy, SimulatedAttester, create_simulated_platform
from sealserve.ratls import TlsIdentity, create_identity


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client") / "platform"
    create_simulated_platform(directory)
    return directory


@pytest.fixture(scope="session")
def policy(platform: Path) -> AppraisalPolicy:
    return write_policy(platform.parent / "policy.yaml", platform)


@pytest.fixture(scope="session")
def good_attester(platform: Path) -> SimulatedAttester:
    return SimulatedAttester(platform, GOOD)


@pytest.fixture(scope="session")
def bad_attester(platform: Path) -> SimulatedAttester:
    return SimulatedAttester(platform, BAD)


@pytest.fixture(scope="session")
def identities(good_attester: SimulatedAttester) -> list[TlsIdentity]:
    return [create_identity(good_attester, server_names=[DEFAULT_SERVER_NAME]) for _ in range(2)]


@pytest.fixture(scope="session")
def bad_identity(bad_attester: SimulatedAttester) -> TlsIdentity:
    return create_identity(bad_attester, server_names=[DEFAULT_SERVER_NAME])


@pytest.fixture
def protocol() -> str:
    """What replicas speak; modules whose tests hold for both ask for ``BOTH_PROTOCOLS``."""
    return "grpc"


@pytest.fixture
def start(protocol: str) -> Iterator[Callable[..., Replica]]:
    """Starts servers, and stops them after the test."""
    with ExitStack() as stack:

        def start_replica(identity: TlsIdentity, attester: SimulatedAttester, **options: object) -> Replica:
            kind = RestReplica if protocol == "rest" else Replica
            return stack.enter_context(kind(identity, attester, **options))  # type: ignore[arg-type]

        yield start_replica


@pytest.fixture
def start_good(start, identities, good_attester) -> Callable[..., Replica]:
    """Starts a replica with the first good identity; its behaviour can be changed."""
    return lambda **options: start(identities[0], good_attester, **options)


@pytest.fixture
def replica(start_good) -> Replica:
    return start_good()


@pytest.fixture
def second_replica(start, identities, good_attester) -> Replica:
    return start(identities[1], good_attester, name="replica-2")


@pytest.fixture
def bad_replica(start, bad_identity, bad_attester) -> Replica:
    """Everything is right with it but its measurement."""
    return start(bad_identity, bad_attester, name="replica-1")


@pytest.fixture(params=["threads", "asyncio"])
def both_clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """Runs a test with the synchronous and with the asyncio client under the name of the former."""
    if request.param == "asyncio":
        monkeypatch.setattr(request.module, "Client", BlockingAsyncClient)
        if hasattr(request.module, "attest"):
            monkeypatch.setattr(request.module, "attest", attest_by_asyncio)


@pytest.fixture(scope="session")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return Owner(tmp_path_factory.mktemp("owner"))


@pytest.fixture
def policy_file(policy: AppraisalPolicy, platform: Path) -> str:
    return str(platform.parent / "policy.yaml")


@pytest.fixture
def balance() -> Iterator[Callable[..., Balancer]]:
    with ExitStack() as stack:
        yield lambda *targets: stack.enter_context(Balancer(targets))


@pytest.fixture
def dying(start_good, second_replica, balance) -> tuple[Replica, Callable[[], str]]:
    """A replica whose connections end with each prediction, and what starts a balancer to it and then to the second.

    Both also have a method that may not run twice, ``/a.B/Once``.
    """
    balancers: list[Balancer] = []

    def die(message, context):
        balancers[-1].cut()
        return replica.honest_predict(message, context)

    def start_balancer() -> str:
        balancers.append(balance(replica.target, second_replica.target))
        return balancers[-1].target

    replica = start_good(predict=die)
    replica.others = second_replica.others = ["Once"]
    return replica, start_balancer


@pytest.fixture
def listed(platform: Path, tmp_path: Path) -> Callable[..., AppraisalPolicy]:
    """Writes a policy that lists models by their digests."""

    def write(*digests: bytes) -> AppraisalPolicy:
        names = ", ".join(f"'{digest.hex()}'" for digest in digests)
        return write_policy(tmp_path / "policy.yaml", platform, f"models: [{names}]\n")

    return write
