"""nginx in front of replicas: it balances TLS connections that it cannot open."""

from sealserve.gateway.configuration import ACCESS_LOG, PID_FILE, GatewayPort, render_nginx, require_usable_path
from sealserve.gateway.nginx import Nginx, check_configuration, find_nginx, inspect_nginx
from sealserve.gateway.workers import worker_user

__all__ = [
    "ACCESS_LOG",
    "PID_FILE",
    "GatewayPort",
    "Nginx",
    "check_configuration",
    "find_nginx",
    "inspect_nginx",
    "render_nginx",
    "require_usable_path",
    "worker_user",
]
