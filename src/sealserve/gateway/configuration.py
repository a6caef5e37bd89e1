"""The configuration of nginx in front of replicas: TLS passes through, routed by the server name of the ClientHello.

nginx holds no key and no certificate here, so it cannot open what it forwards. A connection whose server name is not
the replicas' is closed and goes nowhere. Directives: https://nginx.org/en/docs/stream/ngx_stream_core_module.html,
``ngx_stream_ssl_preread_module`` and ``ngx_stream_upstream_module``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sealserve.addresses import Address, is_dns_name
from sealserve.errors import ConfigurationError
from sealserve.gateway.nginx import Nginx

PID_FILE = "nginx.pid"
ACCESS_LOG = "access.log"

# Quotes, dollars, backslashes, control characters: a path with one of these could leave its place in the file.
_PATH = re.compile(r"/[^\"'$\\;{}\x00-\x1f\x7f]*")

_TEMPLATE = """\
# Written by sealserve; changes are lost at the next start.
{load_module}daemon off;
{user}worker_processes {workers};
worker_rlimit_nofile {open_files};
worker_shutdown_timeout {shutdown_seconds}s;
pid "{runtime_dir}/{pid_file}";
error_log stderr warn;

events {{
    worker_connections {worker_connections};
}}

stream {{
    # One address cannot shut out all others by connecting, to one port or to both.
    limit_conn_zone $binary_remote_addr zone=addresses:1m;
    limit_conn_log_level info;

    log_format connections escape=json
        '{{"time":"$time_iso8601","client":"$remote_addr","server_name":"$ssl_preread_server_name",'
        '"upstream":"$upstream_addr","status":"$status","bytes_received":"$bytes_received",'
        '"bytes_sent":"$bytes_sent","seconds":"$session_time"}}';
{access}
{resolver}{ports}}}
"""

_ACCESS = '    access_log "{access_log}" connections{condition};'

_PROBED = r"""
    # Whoever looks whether the port is open, and has nothing to say, leaves no line. Who stays without a word does.
    map "$status:$ssl_preread_server_name:$session_time" $spoke {
        "~^200::0\.0" 0;
        default 1;
    }
"""

_RESOLVER = """
    # New replicas get their share, and those that leave get nothing, seconds after DNS says so.
    resolver {address} valid=2s;
    resolver_timeout 2s;
"""

_PORT = """
    # Which replicas a connection goes to, by the server name (SNI) that its ClientHello asks for.
    # Any other name, or no TLS at all, gets an empty destination: nginx closes the connection.
    map $ssl_preread_server_name ${name}_destination {{
        default "";
        {server_name} {chosen};
    }}

{split}    upstream {name} {{
        # Shared by the workers: round robin, and what is known of a dead replica.
        zone {name} 128k;
        # One failed connect takes a replica out for a second; the connection itself goes to the next one.
{servers}
    }}

    server {{
        listen {listen} so_keepalive=on;
        limit_conn addresses {connections_of_one};
        ssl_preread on;
        preread_timeout 5s;
        proxy_pass ${name}_destination;
        proxy_connect_timeout {connect_seconds}s;
        proxy_next_upstream on;
        proxy_socket_keepalive on;
        # Channels stay open between calls.
        proxy_timeout 1h;
        proxy_buffer_size 64k;
    }}
"""


_SPLIT = """\
    # A share of all connections goes to replicas of another kind, whoever makes them.
    split_clients "$remote_addr:$remote_port" ${name}_chosen {{
        {percent}% {name}_canary;
        * {name};
    }}

    upstream {name}_canary {{
        zone {name}_canary 128k;
{servers}
        # As long as none of them is there, the others have their share.
{others}
    }}

"""


@dataclass(frozen=True)
class GatewayPort:
    """A port of the gateway.

    :param listen: where clients connect to. :param upstreams: where the replicas listen, in its turn; each of them
        is an IP address and a port, or, with a ``resolver``, a DNS name and a port. :param canary: where replicas
        listen that get a share of the connections; as long as none of them takes it, ``upstreams`` do.
    """

    listen: Address
    upstreams: Sequence[Address]
    canary: Sequence[Address] = ()


def render_nginx(
    *,
    nginx: Nginx,
    grpc: GatewayPort,
    rest: GatewayPort | None,
    server_name: str,
    runtime_dir: Path,
    user: str | None,
    workers: int = 1,
    connections: int = 1000,
    connections_of_one: int = 256,
    connections_of_replica: int = 500,
    connect_seconds: int = 1,
    shutdown_seconds: int = 2,
    canary_percent: int = 0,
    resolver: Address | None = None,
    access_log: Path | None = None,
    probed: bool = False,
) -> str:
    """The text of an ``nginx.conf``.

    :param rest: the second port, with the same rules and limits; None for no REST.
    :param server_name: the server name (SNI) that leads to the replicas.
    :param runtime_dir: absolute; takes the pid file and the access log. nginx writes nowhere else.
    :param user: who the workers run as, see :func:`~sealserve.gateway.workers.worker_user`.
    :param connections: connections from clients that one worker can hold.
    :param connections_of_one: of them, from one address to both ports. Over it, a new connection is closed.
    :param connections_of_replica: that are led to one replica by each port; below the number that it takes itself.
    :param shutdown_seconds: how long open connections have after SIGQUIT.
    :param canary_percent: how many of a hundred connections go to each port's ``canary``.
    :param resolver: the DNS server that knows the upstreams' names: a DNS name or IPv4 address, and its port. It is
        asked again every two seconds, however long its answers may hold. nginx has to be 1.27.3 or newer.
    :param access_log: one line for each connection; in ``runtime_dir`` if not given.
    :param probed: somebody connects every few seconds to see whether nginx listens: that is not logged.
    :raises ConfigurationError: a value has no place in a configuration file.
    """
    # Single labels would include words that mean something in a map: include, default, hostnames, volatile.
    if not is_dns_name(server_name) or "." not in server_name or server_name.replace(".", "").isdigit():
        raise ConfigurationError(f"{server_name!r} is not a server name", hint="TLS server names are DNS names.")
    access_log = access_log or runtime_dir / ACCESS_LOG
    for path in filter(None, (runtime_dir, access_log, nginx.stream_module)):
        require_usable_path(path)
    limits = f"max_conns={int(connections_of_replica)} max_fails=1 fail_timeout=1s"
    if resolver is not None:
        limits = f"resolve {limits}"
    ports = [
        _PORT.format(
            name=name,
            server_name=server_name.lower(),
            chosen=f"${name}_chosen" if port.canary else name,
            split=_split(name, port, int(canary_percent), limits, by_name=resolver is not None),
            servers=_servers(port.upstreams, limits, by_name=resolver is not None),
            listen=_numeric(port.listen),
            connections_of_one=int(connections_of_one),
            connect_seconds=int(connect_seconds),
        )
        for name, port in {"replicas": grpc, "rest": rest}.items()
        if port is not None
    ]
    return _TEMPLATE.format(
        load_module=f'load_module "{nginx.stream_module}";\n' if nginx.stream_module else "",
        user=f"user {user};\n" if user else "",
        workers=int(workers),
        # Each connection has a client's and a replica's side.
        worker_connections=2 * int(connections) + 16,
        open_files=2 * int(connections) + 64,
        shutdown_seconds=int(shutdown_seconds),
        runtime_dir=runtime_dir,
        pid_file=PID_FILE,
        access=(_PROBED if probed else "")
        + _ACCESS.format(access_log=access_log, condition=" if=$spoke" if probed else ""),
        resolver=_RESOLVER.format(address=_named(resolver)) if resolver else "",
        ports="".join(ports),
    )


def _split(name: str, port: GatewayPort, percent: int, limits: str, *, by_name: bool) -> str:
    if not port.canary:
        return ""
    if not 0 < percent < 100:
        raise ConfigurationError(f"a canary cannot have {percent} of a hundred connections")
    return _SPLIT.format(
        name=name,
        percent=percent,
        servers=_servers(port.canary, limits, by_name=by_name),
        others=_servers(port.upstreams, f"{limits} backup", by_name=by_name),
    )


def _servers(upstreams: Sequence[Address], limits: str, *, by_name: bool) -> str:
    if not upstreams:
        raise ConfigurationError("the gateway has no replicas to forward to")
    written = [_named(upstream) if by_name else _numeric(upstream) for upstream in upstreams]
    return "\n".join(f"        server {upstream} {limits};" for upstream in written)


def _named(address: Address) -> str:
    if not is_dns_name(address.host) or not 0 < address.port < 65536:
        raise ConfigurationError(f"{address} is not a DNS name and a fixed port")
    return str(address)


def require_usable_path(path: Path) -> None:
    """Make sure that ``path`` can stand in an ``nginx.conf``.

    :raises ConfigurationError: it is relative, or has a character that could leave its place in the file.
    """
    if not _PATH.fullmatch(str(path)):
        raise ConfigurationError(
            f"nginx cannot take the path {str(path)!r}",
            hint="Choose a working directory (`state` in deployment.yaml; --directory of the demo) whose path has no "
            "quotes, $, \\, ;, {, } and control characters.",
        )


def _numeric(address: Address) -> str:
    """``address`` for nginx; names are refused, since nginx would look them up once and keep the answer."""
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise ConfigurationError(
            f"{address.host!r} is not an IP address", hint="Write 127.0.0.1:8500, for example."
        ) from None
    if "%" in address.host or not 0 < address.port < 65536:
        raise ConfigurationError(
            f"{address} is not a fixed address and port", hint="Write 127.0.0.1:8500, for example."
        )
    return str(address)
