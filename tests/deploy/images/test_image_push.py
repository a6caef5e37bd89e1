"""Images on their way to a cluster: archives, and a real registry with its logins, TLS and faults."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from real_registry import PASSWORD, USER, running_registry

from sealserve.cli.image_push import model, push, save
from sealserve.deploy.certificates import Identity
from sealserve.deploy.images.credentials import find_credentials
from sealserve.deploy.images.model_image import model_image
from sealserve.deploy.images.oci_archive import read_archive, write_archive
from sealserve.deploy.images.pushing import DigestChangedError
from sealserve.deploy.images.pushing import push as push_image
from sealserve.deploy.images.registry import Reference, resolve
from sealserve.deploy.images.registry_client import RegistryError, RegistryRefusedError
from sealserve.errors import InputError, MachineError

FILES = {"1/saved_model.pb": b"sealed" * 1000, "1/variables/variables.index": b"", "files": b"list"}


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path, monkeypatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def sealed(tmp_path) -> Path:
    directory = tmp_path / "sealed"
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    return directory


@pytest.fixture
def image(sealed, tmp_path):
    (tmp_path / "work").mkdir()
    return model_image(sealed, tmp_path / "work")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def test_a_sealed_model_is_the_same_image_wherever_it_lies(image, sealed, tmp_path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(sealed, moved)
    os.utime(moved / "files", (1, 1))
    (tmp_path / "again").mkdir()
    assert model_image(moved, tmp_path / "again").manifest == image.manifest
    with image.blobs[1].open() as layer, tarfile.open(fileobj=layer, mode="r:gz") as tar:
        found = {entry.name: (entry.mode, tar.extractfile(entry).read()) for entry in tar if entry.isfile()}
        assert not {entry.uid for entry in tar} - {0}
    assert found == {name: (0o644, content) for name, content in FILES.items()}


def test_what_is_no_sealed_model_makes_no_image(sealed, tmp_path) -> None:
    with pytest.raises(InputError, match="no sealed model"):
        model_image(tmp_path / "nothing", tmp_path)
    (sealed / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="no part of a sealed model"):
        model_image(sealed, tmp_path)


def test_an_archive_keeps_the_image_and_has_it_under_its_digest(image, tmp_path) -> None:
    reference = Reference.parse("team/a-model:1")
    for name in ("one.tar", "two.tar"):
        write_archive(image, reference, tmp_path / name, kind="model")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    read = read_archive(tmp_path / "one.tar", tmp_path)
    assert (read.digest, read.name, read.kind) == (image.digest, "docker.io/team/a-model:1", "model")
    with tarfile.open(tmp_path / "one.tar") as tar:
        index = json.load(tar.extractfile("index.json"))
        docker = json.load(tar.extractfile("manifest.json"))
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == ["docker.io/team/a-model:1", f"docker.io/team/a-model@{image.digest}"]
    assert docker[0]["RepoTags"] == ["docker.io/team/a-model:1"]


def layout(path: Path, blobs: dict[str, bytes], index: object, **more: bytes) -> Path:
    files = {f"blobs/sha256/{digest}": content for digest, content in blobs.items()}
    files |= {"oci-layout": b"{}", "index.json": json.dumps(index).encode(), **more}
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def saved_by_docker(path: Path, *, broken: bool = False, images: int = 1) -> Path:
    """An archive as Docker saves it from its containerd store: plain layers, and an attestation beside the image."""
    blobs: dict[str, bytes] = {}

    def put(content: object) -> dict[str, object]:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    index = "application/vnd.oci.image.index.v1+json"
    manifest = "application/vnd.oci.image.manifest.v1+json"
    found = []
    for number in range(images):
        layer = {**put(b"layer" * 5000), "mediaType": "application/vnd.oci.image.layer.v1.tar"}
        config = {**put({"os": "linux", "number": number}), "mediaType": "application/vnd.oci.image.config.v1+json"}
        one = put({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [layer]})
        found.append({**one, "mediaType": manifest, "platform": {"os": "linux", "architecture": "amd64"}})
    attestation = {**put({"config": {}, "layers": []}), "mediaType": manifest, "platform": {"os": "unknown"}}
    inner = {**put({"manifests": [*found, attestation]}), "mediaType": index}
    if broken:
        blobs[hashlib.sha256(b"layer" * 5000).hexdigest()] = b"other" * 5000
    return layout(path, blobs, {"manifests": [inner]})


def test_what_docker_saved_is_compressed_and_its_attestation_left_out(tmp_path) -> None:
    image = read_archive(saved_by_docker(tmp_path / "saved.tar"), tmp_path)
    manifest = json.loads(image.manifest)
    assert manifest["layers"][0]["mediaType"].endswith("tar+gzip")
    assert manifest["layers"][0]["size"] < 1000
    assert manifest["layers"][0]["digest"] == image.blobs[1].digest
    (tmp_path / "again").mkdir()
    assert read_archive(tmp_path / "saved.tar", tmp_path / "again").digest == image.digest


def test_archives_that_are_damaged_old_or_several_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="damaged"):
        read_archive(saved_by_docker(tmp_path / "a.tar", broken=True), tmp_path)
    with pytest.raises(InputError, match="holds 2 images"):
        read_archive(saved_by_docker(tmp_path / "b.tar", images=2), tmp_path)
    (tmp_path / "c.tar").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no archive"):
        read_archive(tmp_path / "c.tar", tmp_path)
    with pytest.raises(InputError, match="damaged"):
        read_archive(layout(tmp_path / "d.tar", {}, {"manifests": [{"digest": "../../x"}]}), tmp_path)
    # An index that names itself, under a digest that is not its own; a manifest that is another one; no names.
    own = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{'1' * 64}"}
    index = {"manifests": [own]}
    with pytest.raises(InputError, match="damaged"):
        read_archive(layout(tmp_path / "f.tar", {"1" * 64: json.dumps(index).encode()}, index), tmp_path)
    with tarfile.open(saved_by_docker(tmp_path / "g.tar")) as tar:
        manifest = json.load(tar.extractfile("index.json"))["manifests"][0]["digest"].removeprefix("sha256:")
        blobs = {n.name.rpartition("/")[2]: tar.extractfile(n).read() for n in tar if n.name.startswith("blobs/")}
    blobs[manifest] += b" "
    index = {"manifests": [{**own, "digest": f"sha256:{manifest}"}]}
    with pytest.raises(InputError, match="damaged"):
        read_archive(layout(tmp_path / "h.tar", blobs, index), tmp_path)
    with pytest.raises(InputError, match="damaged"):
        read_archive(layout(tmp_path / "i.tar", {}, {}, **{"index.json": b"[" * 100_000}), tmp_path)
    with tarfile.open(tmp_path / "e.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    with pytest.raises(MachineError, match="Docker before version 25"):
        read_archive(tmp_path / "e.tar", tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_archive(tmp_path / "nothing.tar", tmp_path)


def test_a_registry_has_what_was_pushed_under_the_digest_that_is_said(image, registry, tmp_path) -> None:
    reference = Reference.parse(f"{registry.host}/team/a-model:1")
    told: list[tuple[int, int]] = []
    digest = push_image(image, reference, insecure_http=True, progress=lambda *done: told.append(done))
    assert digest == image.digest == resolve(reference, insecure_http=True)
    assert told[-1] == (image.size, image.size)
    assert push_image(image, reference, insecure_http=True) == digest
    skopeo = shutil.which("skopeo")
    if skopeo is not None:
        name = f"docker://{registry.host}/team/a-model@{digest}"
        copy = [skopeo, "copy", "--src-tls-verify=false", "--quiet", name, f"dir:{tmp_path}/copy"]
        subprocess.run(copy, check=True, timeout=60)
        assert (tmp_path / "copy/manifest.json").read_bytes() == image.manifest


def test_logins_of_container_engines_are_used_and_wrong_ones_said(image, tmp_path, monkeypatch) -> None:
    with running_registry(tmp_path / "registry", login=True) as running:
        reference = Reference.parse(f"{running.host}/team/a-model:1")

        def attempt() -> str:
            return push_image(image, reference, insecure_http=True)

        with pytest.raises(RegistryRefusedError, match="does not let you push to team/a-model"):
            attempt()
        # Podman's file.
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {f"{running.host}/team": {"auth": auth}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
        assert attempt() == image.digest
        file.write_text(json.dumps({"auths": {running.host: {"auth": base64.b64encode(b"alice:wrong").decode()}}}))
        with pytest.raises(RegistryRefusedError) as refused:
            attempt()
        assert "wrong" not in str(refused.value)
        # A program of Docker's, which is told the registry on standard input.
        monkeypatch.delenv("REGISTRY_AUTH_FILE")
        (tmp_path / "home/.docker").mkdir(parents=True)
        (tmp_path / "home/.docker/config.json").write_text(json.dumps({"credHelpers": {running.host: "test"}}))
        program = tmp_path / "bin/docker-credential-test"
        program.parent.mkdir()
        answer = json.dumps({"Username": USER, "Secret": PASSWORD})
        program.write_text(f"#!/bin/sh\nread -r host\n[ \"$host\" = {running.host} ] && echo '{answer}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        assert attempt() == image.digest


def test_files_with_logins_say_what_is_wrong_with_them(tmp_path, monkeypatch) -> None:
    file = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    assert find_credentials("registry.example", "a") is None
    for content, words in (
        ("[]", "no JSON with logins"),
        ('{"auths": {"registry.example": {"auth": "%"}}}', "no name and password"),
        ('{"auths": {"registry.example": {"identitytoken": "x"}}}', "token of identity"),
        ('{"credsStore": "../x"}', "is none"),
        ('{"credsStore": "missing-one"}', "not installed"),
    ):
        file.write_text(content)
        with pytest.raises((InputError, MachineError), match=words):
            find_credentials("registry.example", "a")
    hub = {"https://index.docker.io/v1/": {"auth": base64.b64encode(b"a:b:c").decode()}}
    file.write_text(json.dumps({"auths": hub}))
    found = find_credentials("docker.io", "team/a")
    assert found is not None
    assert (found.user, found.password) == ("a", "b:c")
    assert "b:c" not in repr(found)


def test_tls_is_verified_and_no_login_goes_without_it(image, tmp_path) -> None:
    identity = Identity.leaf("registry", ["127.0.0.1"], "server", validity=timedelta(days=1))
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(identity.certificate_pem)
    key.write_bytes(identity.key_pem)
    with running_registry(tmp_path / "registry", tls=(certificate, key)) as running:
        reference = Reference.parse(f"{running.host}/team/a-model:1")
        assert push_image(image, reference, ca=certificate) == image.digest
        with pytest.raises(RegistryError, match="no valid certificate"):
            push_image(image, reference)
    with pytest.raises(RegistryError, match="cannot be asked"):
        push_image(image, reference, ca=certificate)


def test_a_registry_in_clear_is_not_spoken_to_unless_it_is_said_so(image, registry) -> None:
    with pytest.raises(RegistryError, match="no valid certificate, or no TLS"):
        push_image(image, Reference.parse(f"{registry.host}/team/b:1"))


@pytest.mark.slow
def test_a_full_disk_at_the_registry_is_said_and_mended(sealed, tmp_path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (sealed / "weights").write_bytes(os.urandom(600_000))
        (tmp_path / "work").mkdir()
        image = model_image(sealed, tmp_path / "work")
        with running_registry(tmp_path / "registry", storage=place) as running:
            reference = Reference.parse(f"{running.host}/team/a:1")
            with pytest.raises(RegistryError, match="cannot take the image: status 5") as refused:
                push_image(image, reference, insecure_http=True)
            assert "disk" in f"{refused.value} {refused.value.hint}"
            remount = [mount or "mount", "-o", "remount,size=4m", place]
            subprocess.run(remount, check=True)
            assert push_image(image, reference, insecure_http=True) == image.digest
    finally:
        subprocess.run([umount or "umount", "-l", place], check=False)


@pytest.fixture
def answers(tmp_path):
    """A registry that answers as the test says: method → status, headers, body."""
    table: dict[str, tuple[int, dict[str, str], bytes]] = {
        "HEAD": (404, {}, b""),
        "POST": (202, {"Location": "/v2/team/a/blobs/uploads/1?state=x"}, b""),
        "PUT": (201, {}, b""),
    }
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(f"{self.command} {self.path}")
            key = f"{self.command} manifest" if "/manifests/" in self.path else self.command
            status, headers, body = table.get(key, table[self.command])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_PUT()

        def do_POST(self) -> None:
            self.do_PUT()

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield table, seen, Reference.parse(f"127.0.0.1:{server.server_port}/team/a:1")
    server.shutdown()
    server.server_close()


def test_a_layer_that_goes_to_another_server_takes_no_login_there(image, answers, tmp_path, monkeypatch) -> None:
    table, _, reference = answers
    logins = tmp_path / "auth.json"
    logins.write_text(json.dumps({"auths": {reference.host: {"auth": base64.b64encode(b"olga:word").decode()}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(logins))
    there: list[tuple[str, str | None]] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            there.append((self.command, self.headers["Authorization"]))
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    table["HEAD"] = (401, {"WWW-Authenticate": "Basic"}, b"")
    table["POST"] = (202, {"Location": f"http://127.0.0.1:{server.server_port}/upload"}, b"")
    with pytest.raises(RegistryRefusedError):
        push_image(image, reference, insecure_http=True)
    server.shutdown()
    server.server_close()
    assert there == [("PUT", None)]


@pytest.mark.parametrize("place", ["https://[/", "https://registry.example:99999/"])
def test_a_registry_that_sends_layers_to_no_address_is_an_error_of_its_own(image, answers, place) -> None:
    table, _, reference = answers
    table["POST"] = (202, {"Location": place}, b"")
    with pytest.raises(RegistryError):
        push_image(image, reference, insecure_http=True)


def test_a_registry_that_sends_for_a_token_to_no_address_is_an_error_of_its_own(image, answers) -> None:
    table, _, reference = answers
    table["HEAD"] = (401, {"WWW-Authenticate": 'Bearer realm="https://["'}, b"")
    with pytest.raises(RegistryError, match="no address"):
        push_image(image, reference, insecure_http=True)


def test_another_digest_under_the_tag_is_not_taken_for_ours(image, answers) -> None:
    table, seen, reference = answers
    table["HEAD manifest"] = (200, {"Docker-Content-Digest": f"sha256:{'7' * 64}"}, b"")
    with pytest.raises(DigestChangedError, match="7777"):
        push_image(image, reference, insecure_http=True)
    digest = image.blobs[1].digest.replace(":", "%3A")
    assert f"PUT /v2/team/a/blobs/uploads/1?state=x&digest={digest}" in seen


@pytest.mark.parametrize(
    ("method", "status", "error", "words"),
    [
        ("POST", 403, RegistryRefusedError, "does not let you push.*: denied"),
        ("POST", 404, RegistryRefusedError, "no repository"),
        ("PUT", 413, RegistryError, "no room"),
        ("PUT", 507, RegistryError, "no room"),
        ("PUT", 500, RegistryError, "status 500: denied"),
        ("PUT", 429, RegistryError, "429"),
        ("PUT manifest", 400, RegistryError, "does not take the image: status 400"),
    ],
)
def test_what_a_registry_says_no_with_is_told(image, answers, *, method, status, error, words) -> None:
    table, _, reference = answers
    table[method] = (
        status,
        {},
        json.dumps({"errors": [{"code": "DENIED", "message": "denied", "detail": {}}]}).encode(),
    )
    with pytest.raises(error, match=words):
        push_image(image, reference, insecure_http=True)


# --- the commands ---


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A context whose image a stand-in for Docker saves."""
    saved_by_docker(tmp_path / "saved.tar")
    program = tmp_path / "engine/docker"
    program.parent.mkdir()
    save = f'if [ "$2" = save ]; then cp {tmp_path}/saved.tar "$4"; fi'
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n{save}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    context = tmp_path / "c"
    context.mkdir()
    described = {"kind": "simulated", "image": "team/a-simulated:1", "version": "0", "files": []}
    (context / "image.json").write_text(json.dumps(described))
    return ["--context", str(context), "--engine", "docker"]


DEPLOYMENT = """\
# Ours.
name: mine
model: {name: m, path: model}
image: {name: "registry.example/team/a:1"}
kubernetes:
  image: old/name@sha256:@@   # the replicas
  sealed_model:
    # with the next one
    image: old/model@sha256:@@
  edge: {kind: node-port}
""".replace("@@", 64 * "0")


def test_a_built_image_is_pushed_and_its_digest_written_where_it_belongs(built, registry, tmp_path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(DEPLOYMENT)
    name = f"{registry.host}/team/a-simulated:1"
    arguments = [*built, "--to", name, "--insecure-http"]
    done = CliRunner().invoke(push, arguments)
    assert done.exit_code == 0, done.output
    digest = resolve(Reference.parse(name), insecure_http=True)
    assert done.stdout == f"{name}@{digest}\n"
    assert f"kubernetes: {{image: '{name}@{digest}'}}" in done.stderr
    done = CliRunner().invoke(push, [*arguments, "--write", str(file), "--json"])
    told = json.loads(done.stdout)
    assert (told["digest"], told["setting"], told["written"]) == (digest, "kubernetes.image", True)
    assert file.read_text() == DEPLOYMENT.replace(f"old/name@sha256:{64 * '0'}", f"{name}@{digest}")


def test_another_setting_can_be_named(built, tmp_path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(DEPLOYMENT)
    arguments = [*built, "-o", str(tmp_path / "out.tar"), "--setting", "kubernetes.sealed_model.image"]
    assert CliRunner().invoke(save, arguments).exit_code == 2
    done = CliRunner().invoke(save, [*arguments, "--write", str(file)])
    assert done.exit_code == 0, done.output
    assert f"    image: {done.stdout.strip()}\n" in file.read_text()


def test_a_push_needs_an_image_that_was_built_and_a_registry_in_its_name(built, tmp_path) -> None:
    done = CliRunner().invoke(push, [*built, "--to", "a:1"])
    assert isinstance(done.exception, InputError)
    assert "names no registry" in str(done.exception)
    (tmp_path / "engine/docker").write_text("#!/bin/sh\nexit 1\n")
    done = CliRunner().invoke(push, [*built, "--insecure-http"])
    assert isinstance(done.exception, InputError)
    assert "has no image team/a-simulated:1" in str(done.exception)


def test_a_dry_run_of_a_push_runs_nothing(built, tmp_path) -> None:
    done = CliRunner().invoke(push, [*built, "--dry-run", "--to", "registry.example/team/a:2"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "and push it to registry.example/team/a:2"
    assert not (tmp_path / "calls").exists()


def test_a_saved_image_can_be_pushed_later_under_the_same_digest(built, registry, tmp_path) -> None:
    archive = tmp_path / "out.tar"
    done = CliRunner().invoke(save, [*built, "-o", str(archive), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["image"] == f"team/a-simulated:1@{told['digest']}"
    to = f"{registry.host}/team/later:1"
    done = CliRunner().invoke(push, ["--archive", str(archive), "--to", to, "--insecure-http", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["digest"] == told["digest"]


def test_a_sealed_model_becomes_an_archive(sealed, tmp_path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(DEPLOYMENT)
    (tmp_path / ".sealserve/platform").mkdir(parents=True)
    sealed.rename(tmp_path / ".sealserve/platform/sealed")
    arguments = ["-f", str(file), "-o", str(tmp_path / "model.tar"), "--write", str(file)]
    done = CliRunner().invoke(model, arguments)
    assert done.exit_code == 0, done.output
    pinned = done.stdout.strip()
    assert pinned.startswith("registry.example/team/a-model:1@sha256:")
    assert f"    image: {pinned}\n" in file.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["buildah", "podman"])
def test_real_engines_give_what_a_registry_then_has(engine, tmp_path, monkeypatch, registry) -> None:
    if shutil.which(engine) is None or os.geteuid() != 0:
        pytest.skip(f"needs {engine}, and root")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/storage"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    context = tmp_path / "c"
    context.mkdir()
    (context / "hello").write_text("hello")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY hello /\n")
    name = f"{registry.host}/team/{engine}:1"
    (context / "image.json").write_text(json.dumps({"kind": "client", "image": name, "version": "0", "files": []}))
    command = [engine, "build", "--timestamp", "0", "--tag", name, str(context)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    arguments = ["--context", str(context), "--engine", engine, "--insecure-http", "--json"]
    done = CliRunner().invoke(push, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads(done.stdout)
    assert told["setting"] is None
    run = [engine, "pull", "--tls-verify=false", told["image"].replace(":1@", "@")]
    assert subprocess.run(run, check=False, timeout=100, capture_output=True).returncode == 0
    done = CliRunner().invoke(push, [*arguments, "--to", f"{registry.host}/team/nothing:1"])
    assert json.loads(done.stdout)["digest"] == told["digest"]
    (context / "image.json").write_text(json.dumps({"kind": "client", "image": "a/b:9", "version": "0", "files": []}))
    done = CliRunner().invoke(push, arguments)
    assert isinstance(done.exception, InputError)
