"""``sealserve replica``: run one attested replica. `sealserve up` starts these; by hand it is for other supervisors."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import click

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(short_help="Run one attested replica.")
@click.option("--name", default=socket.gethostname, help="Name of this replica, for people; the host's if none.")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where to serve gRPC over TLS.")
@click.option("--rest-listen", metavar="HOST:PORT", help="Where to serve REST over TLS; nowhere if not given.")
@click.option(
    "--metrics-listen",
    metavar="HOST:PORT",
    help="Where to tell metrics over TLS to whoever asks; nowhere if not given.",
)
@click.option(
    "--broker", "brokers", required=True, multiple=True, metavar="HOST:PORT", help="Key broker; may be repeated."
)
@click.option(
    "--broker-ca", required=True, type=EXISTING_FILE, help="Certificate authority of the broker, PEM. Measured."
)
@click.option("--deployment", required=True, help="Name under which to ask for keys. Measured.")
@click.option("--sealed", required=True, type=EXISTING_DIRECTORY, help="Directory of the sealed model.")
@click.option(
    "--tee",
    type=click.Choice(["simulated", "sgx", "tdx"]),
    default="simulated",
    show_default=True,
    help="What this replica runs in. sgx: an enclave, under Gramine. tdx: the TDX guest that this machine is.",
)
@click.option(
    "--platform", type=EXISTING_DIRECTORY, help="Directory of the simulated SGX platform, for --tee simulated."
)
@click.option("--server-name", required=True, help="DNS name in the certificate, by which the gateway routes.")
@click.option("--broker-timeout", default=30.0, show_default=True, help="Seconds to keep trying to reach a broker.")
@click.option(
    "--keep-asking",
    is_flag=True,
    help="At start, wait for a broker that is away and ask one again that refuses, instead of ending. For clusters.",
)
@click.option("--stop-grace", default=10.0, show_default=True, help="Seconds for requests in flight after SIGTERM.")
@click.option(
    "--most-threads", type=click.IntRange(min=1), help="Refuse a grant that has more threads compute. Measured."
)
@click.option(
    "--max-connection-age",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="After how long a connection is closed in good order, so that its client comes to newer replicas too.",
)
@click.option("--json-logs", is_flag=True, help="Log as JSON lines.")
def replica(
    *,
    name: str,
    listen: str,
    rest_listen: str | None,
    metrics_listen: str | None,
    brokers: tuple[str, ...],
    broker_ca: Path,
    deployment: str,
    sealed: Path,
    tee: Literal["simulated", "sgx", "tdx"],
    platform: Path | None,
    server_name: str,
    broker_timeout: float,
    keep_asking: bool,
    stop_grace: float,
    most_threads: int | None,
    max_connection_age: float | None,
    json_logs: bool,
) -> None:
    """Attest to the key broker, unseal the model in memory, and serve it."""
    from sealserve import logs
    from sealserve.enclave.replica import run_replica
    from sealserve.enclave.settings import ReplicaSettings

    logs.configure(json_lines=json_logs)
    run_replica(
        ReplicaSettings(
            name=name,
            listen=listen,
            brokers=brokers,
            broker_ca=broker_ca,
            deployment=deployment,
            sealed=sealed,
            tee=tee,
            platform=platform,
            server_name=server_name,
            broker_timeout=broker_timeout,
            keep_asking=keep_asking,
            stop_grace=stop_grace,
            max_connection_age=max_connection_age,
            rest_listen=rest_listen,
            metrics_listen=metrics_listen,
            most_threads=most_threads,
        )
    )
