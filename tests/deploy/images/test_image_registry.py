from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import ssl
import subprocess
import threading
import time
import urllib.request
from datetime import timedelta

import pytest

from sealserve.deploy.certificates import Identity
from sealserve.deploy.images.credentials import Credentials
from sealserve.deploy.images.registry import Reference, resolve
from sealserve.deploy.images.registry_client import RegistryClient, RegistryError, connections
from sealserve.errors import InputError

MANIFEST = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
OTHER = f"sha256:{'7' * 64}"


@pytest.mark.parametrize(
    ("text", "host", "path", "tag"),
    [
        ("ubuntu", "docker.io", "library/ubuntu", "latest"),
        ("ubuntu:24.04", "docker.io", "library/ubuntu", "24.04"),
        ("tensorflow/serving:2.19.1", "docker.io", "tensorflow/serving", "2.19.1"),
        ("docker.io/ubuntu:24.04", "docker.io", "library/ubuntu", "24.04"),
        ("ghcr.io/a/b/c:1", "ghcr.io", "a/b/c", "1"),
        ("localhost/a:1", "localhost", "a", "1"),
        ("localhost:5000/a", "localhost:5000", "a", "latest"),
        ("registry.example:443/team/a_b--c:v1", "registry.example:443", "team/a_b--c", "v1"),
    ],
)
def test_references_mean_what_container_engines_take_them_for(text, host, path, tag) -> None:
    reference = Reference.parse(text)
    assert (reference.host, reference.path, reference.tag, reference.digest) == (host, path, tag, None)
    assert reference.pinned(DIGEST) == f"{text}@{DIGEST}"


@pytest.mark.parametrize(
    "text", ["", "Ubuntu", "a b", "ubuntu:", "ubuntu@sha256:12", "../x", "a//b", "https://x/y", "x" * 600]
)
def test_what_is_no_reference_is_refused(text) -> None:
    with pytest.raises(InputError, match="no image reference"):
        Reference.parse(text)


def test_a_digest_is_taken_as_it_is() -> None:
    assert resolve(Reference.parse(f"nowhere.invalid/a:1@{OTHER}")) == OTHER


class Registry:
    """A registry that wants a token first, as Docker Hub does."""

    def __init__(self, directory) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.says_digest = True
        self.realm = "/token"
        self.token_body = json.dumps({"token": "t0ken"}).encode()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization")
                registry.asked.append((self.command, self.path, authorization))
                if self.path.startswith("/token"):
                    self.answer(200, registry.token_body)
                elif authorization != "Bearer t0ken":
                    realm = registry.realm if "://" in registry.realm else f"https://{registry.host}{registry.realm}"
                    challenge = f'Bearer realm="{realm}",service="registry",scope="repository:team/a:pull"'
                    self.answer(401, b"{}", {"WWW-Authenticate": challenge})
                elif self.path == "/v2/team/a/manifests/1" and "oci.image.index" in self.headers["Accept"]:
                    self.answer(200, MANIFEST, {"Docker-Content-Digest": DIGEST} if registry.says_digest else {})
                else:
                    self.answer(404, b"{}")

            def do_HEAD(self) -> None:
                self.do_GET()

            def answer(self, status, body, headers=()) -> None:
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        identity = Identity.leaf("registry", ["127.0.0.1"], "server", validity=timedelta(days=1))
        self.ca = directory / "registry.pem"
        self.ca.write_bytes(identity.certificate_pem)
        (directory / "both.pem").write_bytes(identity.certificate_pem + identity.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "both.pem")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def resolve(self, name="team/a:1", **options) -> str:
        return resolve(Reference.parse(f"{self.host}/{name}"), **{"ca": self.ca, **options})


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path)
    yield registry
    registry.server.shutdown()
    registry.server.server_close()


def test_a_tag_is_resolved_with_a_token(registry) -> None:
    assert registry.resolve() == DIGEST
    manifest = "/v2/team/a/manifests/1"
    token = "/token?service=registry&scope=repository%3Ateam%2Fa%3Apull"
    assert registry.asked == [("HEAD", manifest, None), ("GET", token, None), ("HEAD", manifest, "Bearer t0ken")]


def test_an_address_for_tokens_keeps_its_own_query(registry) -> None:
    registry.realm = "/token?account=public"
    assert registry.resolve() == DIGEST
    assert registry.asked[1][1].startswith("/token?account=public&service=registry&")


def test_a_long_challenge_takes_no_time(registry) -> None:
    registry.realm = f'/token",{"a" * 60_000}'
    started = time.monotonic()
    assert registry.resolve() == DIGEST
    assert time.monotonic() - started < 10


def test_a_registry_that_says_no_digest_has_its_manifest_hashed(registry) -> None:
    registry.says_digest = False
    assert registry.resolve() == DIGEST


def test_an_unknown_image_is_named(registry) -> None:
    with pytest.raises(RegistryError, match=r"has no image team/b:1"):
        registry.resolve("team/b:1")


def test_a_registry_without_a_trusted_certificate_is_not_asked(registry) -> None:
    with pytest.raises(RegistryError, match="no valid certificate"):
        registry.resolve(ca=None)
    assert not registry.asked


@pytest.mark.parametrize("body", [b"", b"[]", b'{"token": 7}', b'{"token": "a\\r\\nb"}', b"x" * 70_000])
def test_a_token_that_is_none_is_not_used(registry, body) -> None:
    registry.token_body = body
    with pytest.raises(RegistryError):
        registry.resolve()
    assert len(registry.asked) == 2


def test_no_token_is_fetched_without_tls(registry) -> None:
    registry.realm = "http://127.0.0.1:1/token"
    with pytest.raises(RegistryError, match="without TLS"):
        registry.resolve()


def test_a_token_for_pushing_is_asked_for_with_the_login_and_goes_nowhere_else(registry, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    other = Registry(tmp_path / "other")
    scope = "repository:team/a:pull,push"
    login = Credentials("alice", "a file", "b")
    manifest = "/v2/team/a/manifests/1"
    with connections(registry.host, ca=registry.ca) as pool:
        client = RegistryClient(pool, registry.host, insecure_http=False, credentials=login, scope=scope)
        assert client.ask("HEAD", manifest, 0)[0].status == 200
        assert client.ask("HEAD", f"https://{registry.host}{manifest}", 0)[0].status == 200
        with pytest.raises(RegistryError, match="without TLS"):
            client.ask("HEAD", f"http://{registry.host}{manifest}", 0)
    token = "/token?service=registry&scope=repository%3Ateam%2Fa%3Apull%2Cpush"
    assert registry.asked[1] == ("GET", token, login.basic())
    assert [asked[2] for asked in registry.asked[2:]] == ["Bearer t0ken"] * 2
    with connections(other.host, ca=other.ca) as pool:
        client = RegistryClient(pool, registry.host, insecure_http=False, credentials=login, scope=scope)
        client._authorization = "Bearer t0ken"
        assert client.ask("HEAD", f"https://{other.host}{manifest}", 0)[0].status == 401
    assert [asked[2] for asked in other.asked] == [None]
    other.server.shutdown()
    other.server.server_close()


@pytest.mark.slow
def test_the_distribution_projects_own_registry_is_understood(tmp_path) -> None:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry here")
    import socket
    import time

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{sock.getsockname()[1]}"
    configuration = tmp_path / "config.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "storage")}}
    configuration.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    with subprocess.Popen([program, "serve", configuration], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as p:
        try:
            url = f"http://{host}/v2/team/a/manifests/1"
            body = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json"}
            content = json.dumps({**body, "manifests": []}).encode()
            request = urllib.request.Request(url, content, {"Content-Type": body["mediaType"]}, method="PUT")
            for _ in range(100):
                try:
                    urllib.request.urlopen(request, timeout=5).close()  # noqa: S310 - our own server
                    break
                except urllib.error.URLError:
                    time.sleep(0.1)
            pinned = resolve(Reference.parse(f"{host}/team/a:1"), insecure_http=True)
            assert pinned == f"sha256:{hashlib.sha256(content).hexdigest()}"
        finally:
            p.kill()
