"""What `status` knows of the ends of the owner's certificates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealserve.deploy.certificates import Identity
from sealserve.local.expiry import certificate_ends, ending_soon
from sealserve.local.layout import Layout
from sealserve.local.state import ClusterState
from sealserve.secret import Secret
from sealserve.serving.grpc_server import listen
from sealserve.serving.limits import Limits
from sealserve.serving.tls import ServerTls

NAME = "replica.sealserve.internal"
NOW = datetime(2030, 1, 31, tzinfo=UTC)


def leaf(days: float) -> Identity:
    return Identity.leaf(NAME, [NAME], "server", validity=timedelta(days=days))


def state(gateway: str, tls: str) -> ClusterState:
    return ClusterState(
        deployment="d",
        file=None,
        phase="running",
        boot="",
        supervisor=1,
        supervisor_ticks=1,
        started_at=0,
        broker="127.0.0.1:1",
        gateway=gateway,
        server_name=NAME,
        tls=tls,
        model="m",
        model_version=1,
        processes=(),
    )


@pytest.fixture
def gateway() -> Iterator[str]:
    """Where a replica of two-way TLS answers, whose certificate ends in ten days."""
    shown = leaf(10)
    tls = ServerTls(Secret(shown.key_pem), shown.certificate_pem, client_ca_pem=leaf(1).certificate_pem)
    server, ports = listen([], addresses=["127.0.0.1:0"], tls=tls, limits=Limits())
    server.start()
    yield f"127.0.0.1:{ports[0]}"
    server.stop(0)


def test_it_is_told_when_what_replicas_and_the_client_show_ends(gateway: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.client.mkdir()
    layout.client_certificate.write_bytes(leaf(100).certificate_pem)
    ends = certificate_ends(state(gateway, "two-way"), layout)
    assert {whose: round((end - datetime.now(UTC)) / timedelta(days=1)) for whose, end in ends.items()} == {
        "replicas": 10,
        "client": 100,
    }
    (line,) = ending_soon(ends)
    assert line.startswith("The certificate that replicas show ends on ")


def test_nothing_is_asked_where_replicas_make_their_certificates(gateway: str, tmp_path: Path) -> None:
    assert certificate_ends(state(gateway, "attested"), Layout(tmp_path)) == {}


def test_what_cannot_be_reached_is_not_known(tmp_path: Path) -> None:
    assert certificate_ends(state("127.0.0.1:1", "two-way"), Layout(tmp_path)) == {}


def test_thirty_days_are_soon() -> None:
    days = {"replicas": 30, "client": 31}
    ends = {whose: NOW + timedelta(days=number) for whose, number in days.items()}
    assert ending_soon(ends, NOW) == [
        "The certificate that replicas show ends on 2030-03-02: renew it (docs/deployment.md, Renewal)."
    ]
    assert ending_soon({"client": NOW}, NOW) == [
        "The client's certificate has ended on 2030-01-31: renew it (docs/deployment.md, Renewal)."
    ]
