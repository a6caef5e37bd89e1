"""The command lines of the processes of a local cluster: the one place that knows them."""

from __future__ import annotations

import sys
from pathlib import Path

from sealserve.addresses import Address
from sealserve.gateway import Nginx
from sealserve.local.layout import Layout

# -P: a file in the working directory must not be imported in place of a library.
SEALSERVE = (sys.executable, "-P", "-m", "sealserve")


def broker_command(configuration: Path) -> tuple[str, ...]:
    """The key broker."""
    return (*SEALSERVE, "broker", "run", "-f", str(configuration), "--json-logs")


def replica_command(
    layout: Layout,
    *,
    name: str,
    listen: Address,
    rest_listen: Address | None = None,
    broker: Address,
    deployment: str,
    server_name: str,
) -> tuple[str, ...]:
    """A replica on the simulated platform. How it computes comes from the broker, after attestation."""
    return (
        *SEALSERVE,
        "replica",
        *("--name", name),
        *("--listen", str(listen)),
        *(("--rest-listen", str(rest_listen)) if rest_listen is not None else ()),
        *("--broker", str(broker)),
        *("--broker-ca", str(layout.replica_authority)),
        *("--deployment", deployment),
        *("--sealed", str(layout.sealed_model)),
        *("--tee", "simulated"),
        *("--platform", str(layout.simulated_platform)),
        *("--server-name", server_name),
        "--json-logs",
    )


def nginx_command(nginx: Nginx, layout: Layout) -> tuple[str, ...]:
    """The gateway, in the foreground."""
    return tuple(nginx.command(layout.nginx_configuration, layout.nginx))
