from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sealserve.addresses import Address
from sealserve.errors import ConfigurationError
from sealserve.gateway import GatewayPort, Nginx, check_configuration, render_nginx, worker_user

UPSTREAMS = [Address("127.0.0.1", 7001), Address("::1", 7002)]


def _render(directory: Path, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "nginx": Nginx(Path("/usr/sbin/nginx"), (1, 31), None),
        "grpc": GatewayPort(Address("127.0.0.1", 18500), UPSTREAMS),
        "rest": GatewayPort(Address("127.0.0.1", 18501), [Address("127.0.0.1", 7003)]),
        "server_name": "replica.sealserve.internal",
        "runtime_dir": directory,
        "user": worker_user(),
    }
    return render_nginx(**(arguments | changes))


def test_the_real_nginx_accepts_the_rendered_file(nginx: Nginx, tmp_path: Path) -> None:
    directory = tmp_path / "a directory with späces"
    directory.mkdir()
    configuration = directory / "nginx.conf"
    configuration.write_text(_render(directory, nginx=nginx))
    check_configuration(nginx, configuration, directory)


def test_nothing_in_it_ends_tls_or_speaks_http(tmp_path: Path) -> None:
    text = _render(tmp_path)
    assert "ssl_preread on;" in text
    assert "ssl_certificate" not in text
    assert "http {" not in text
    assert 'default "";' in text


def test_without_rest_there_is_one_port(tmp_path: Path) -> None:
    assert _render(tmp_path).count("listen ") == 2
    text = _render(tmp_path, rest=None)
    assert text.count("listen ") == 1
    assert "upstream rest" not in text


def test_both_ports_have_the_same_rules(tmp_path: Path) -> None:
    server = _render(tmp_path).split("    server {\n")[1:]
    assert len(server) == 2
    grpc, rest = (text.split("    }\n")[0] for text in server)
    assert "proxy_pass $replicas_destination;" in grpc
    assert grpc.replace("18500", "18501").replace("replicas", "rest") == rest


def test_the_user_is_set_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "user nobody nogroup;" in _render(tmp_path, user="nobody nogroup")
    assert "\nuser " not in _render(tmp_path, user=None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert worker_user() is None


def test_workers_stay_roots_where_root_may_not_become_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("setgroups")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", refuse)
    assert worker_user() == "root"


def test_a_dynamic_module_is_loaded_first(tmp_path: Path) -> None:
    text = _render(tmp_path, nginx=Nginx(Path("nginx"), (1, 22), Path("/usr/lib/nginx/modules/ngx_stream_module.so")))
    assert text.index("load_module") < text.index("daemon off")


@pytest.mark.parametrize(
    "changes",
    [
        {"server_name": 'x"; } evil'},
        {"server_name": "a b"},
        {"server_name": "default;"},
        {"server_name": "127.0.0.1"},
        {"server_name": ""},
        {"server_name": "a" * 64},
        {"server_name": "name\n"},
        *(
            {name: port}
            for name in ("grpc", "rest")
            for port in (
                GatewayPort(Address("127.0.0.1; include /etc/passwd", 1), UPSTREAMS),
                GatewayPort(Address("localhost", 8500), UPSTREAMS),
                GatewayPort(Address("127.0.0.1", 0), UPSTREAMS),
                GatewayPort(Address("fe80::1%eth0;", 8500), UPSTREAMS),
                GatewayPort(Address("127.0.0.1", 8500), []),
                GatewayPort(Address("127.0.0.1", 8500), [Address("replica.example", 1)]),
                GatewayPort(Address("127.0.0.1", 8500), [Address("127.0.0.1", 70000)]),
            )
        ),
        {"runtime_dir": Path("relative")},
        {"runtime_dir": Path('/x"; user nobody; #')},
        {"runtime_dir": Path("/x/$hostname")},
        {"runtime_dir": Path("/x\ny")},
    ],
)
def test_a_value_that_could_leave_its_place_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        _render(tmp_path, **changes)
