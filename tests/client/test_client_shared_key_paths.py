"""A key that several replicas have, and a balancer in front of them: each new connection is checked, whoever makes it.

The other replica has the same key and certificate, and a measurement that the owner's grant accepts and this client's
policy does not. Servers keep what they were sent, so that "nothing" is looked up on their side.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from client_parties import SECRET_INPUT, Balancer, Owner, Replica
from test_client_channel import PREDICT, request

from sealserve.addresses import Address
from sealserve.client import OwnerCertificates
from sealserve.client.aio import AsyncClient
from sealserve.client.bench import Plan, measure
from sealserve.client.with_aiohttp import RestProxy
from sealserve.client.with_grpcio import verified_aio_channel, verified_channel
from sealserve.client.with_grpcio.proxy import Proxy
from sealserve.errors import PolicyRefusedError
from sealserve.evidence import AppraisalPolicy, SimulatedAttester
from sealserve.wire import attestation_pb2

MESSAGE = request().SerializeToString()
REFUSED = grpc.StatusCode.UNAUTHENTICATED
HERE = Address("127.0.0.1", 0)


class Mixed:
    """A good replica, another one with its key, and a balancer in turns."""

    def __init__(
        self,
        start: Callable[..., Replica],
        balance: Callable[..., Balancer],
        owner: Owner,
        attesters: tuple[SimulatedAttester, SimulatedAttester],
        policy: AppraisalPolicy,
    ) -> None:
        granted = owner.identity()
        self.good, self.other = (start(granted, attester) for attester in attesters)
        for replica in (self.good, self.other):
            claims = attestation_pb2.Claims.FromString(replica.claims)
            claims.shared_tls_key = True
            replica.claims = claims.SerializeToString()
        self.balancer = balance(self.good.target, self.other.target)
        self.policy = policy
        self.options = {"certificates": OwnerCertificates(owner.path("ca.pem")), "server_name": owner.name}

    @property
    def target(self) -> str:
        return self.balancer.target

    def client(self) -> AsyncClient:
        return AsyncClient(self.target, self.policy, **self.options)

    def check(self, *, answered: int = 2) -> None:
        """In turns: the good one, the other, and so on, with every connection broken in between."""
        assert (self.good.asked, self.good.predicted) == (answered, answered)
        assert set(self.other.log) == {"GetEvidence"}
        assert self.other.predicted == 0


@pytest.fixture
def attesters(good_attester, bad_attester):
    return good_attester, bad_attester


@pytest.fixture
def mixed(start, balance, owner, attesters, policy):
    return Mixed(start, balance, owner, attesters, policy)


def test_a_channel_that_reconnects(mixed):
    codes = []
    with verified_channel(mixed.target, mixed.policy, **mixed.options) as channel:
        for _ in range(4):
            try:
                channel.unary_unary(PREDICT)(MESSAGE, timeout=10)
            except grpc.RpcError as error:
                codes.append(error.code())
            mixed.balancer.cut()
    assert codes == [REFUSED] * 2
    mixed.check()


def test_an_asyncio_channel_that_reconnects(mixed):
    async def ask():
        codes = []
        async with verified_aio_channel(mixed.target, mixed.policy, **mixed.options) as channel:
            for _ in range(4):
                try:
                    await channel.unary_unary(PREDICT)(MESSAGE, timeout=10)
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())
                await asyncio.to_thread(mixed.balancer.cut)
                await asyncio.sleep(0.05)
        return codes

    assert asyncio.run(ask()) == [REFUSED] * 2
    mixed.check()


def test_the_proxy_for_grpc(mixed):
    def program(address: str) -> list[grpc.StatusCode]:
        codes = []
        with grpc.insecure_channel(address) as channel:
            for _ in range(4):
                try:
                    channel.unary_unary(PREDICT)(MESSAGE, timeout=10)
                except grpc.RpcError as error:
                    codes.append(error.code())
                mixed.balancer.cut()
        return codes

    async def run():
        async with mixed.client() as client:
            proxy = Proxy(client)
            address = proxy.listen(HERE)
            await proxy.start()
            codes = await asyncio.to_thread(program, str(address))
            await proxy.stop(0.1)
            proxy.close()
        return codes

    assert asyncio.run(run()) == [REFUSED] * 2
    mixed.check()


@pytest.mark.parametrize("protocol", ["rest"])
def test_the_proxy_for_rest(mixed):
    body = json.dumps({"inputs": {"images": [1]}}).encode()

    def program(address: Address) -> list[int]:
        codes = []
        for _ in range(4):
            try:
                urlopen(Request(f"http://{address}/v1/models/classifier:predict", body), timeout=10).close()
            except HTTPError as error:
                codes.append(error.code)
                error.close()
            mixed.balancer.cut()
        return codes

    async def run():
        async with mixed.client() as client:
            proxy = RestProxy(client)
            address = proxy.listen(HERE)
            await proxy.start()
            codes = await asyncio.to_thread(program, address)
            await proxy.stop(0.1)
            proxy.close()
        return codes

    found = asyncio.run(run())
    assert mixed.other.predicted == 0
    assert found.count(502) == 2
    assert set(mixed.other.log) == {"GetEvidence"}
    assert mixed.good.asked == 2


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_bench_with_several_connections(mixed):
    async def run():
        async with mixed.client() as client:
            await measure(client, {"images": SECRET_INPUT}, Plan(4, count=50), model="classifier", batch=1)

    with pytest.raises(PolicyRefusedError):
        asyncio.run(run())
    assert mixed.other.predicted == 0
    assert set(mixed.other.log) == {"GetEvidence"}
