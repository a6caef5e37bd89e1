from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from dockerfile_parse import DockerfileParser

import sealserve
from sealserve.cli.image_build import render as render_command
from sealserve.deploy.images.context import Context, render_context
from sealserve.deploy.images.dockerfile import ImageParts, render_dockerfile
from sealserve.deploy.images.wheel import build_wheel
from sealserve.errors import ConfigurationError, InputError

ROOT = Path(__file__).parents[3]
BASE = f"ubuntu:24.04@sha256:{'1' * 64}"
SERVER = f"tensorflow/serving:2.19.1@sha256:{'2' * 64}"
KINDS = ("replica", "broker", "client", "simulated")
WHEEL = "sealserve-1.2.3-py3-none-any.whl"
GOLDEN = {
    "openvino.Dockerfile": ImageParts("replica", BASE, WHEEL, "1.2.3", model_size=1000, rest=True),
    "tensorflow-serving.Dockerfile": ImageParts(
        "replica", BASE, WHEEL, "1.2.3", model_server=SERVER, model_size=102_000_000, batching=True
    ),
    "broker.Dockerfile": ImageParts("broker", BASE, WHEEL, "1.2.3"),
    "client.Dockerfile": ImageParts("client", BASE, WHEEL, "1.2.3"),
    "simulated.Dockerfile": ImageParts("simulated", BASE, WHEEL, "1.2.3", rest=True),
}


@pytest.fixture(scope="module")
def wheel() -> bytes:
    return build_wheel()


@pytest.fixture
def deployment(tmp_path, wheel, monkeypatch):
    """Writes a deployment.yaml; a setting that is None is left out."""

    monkeypatch.setattr("sealserve.deploy.images.context.build_wheel", lambda: wheel)  # it takes its time

    def write(*, model=None, image=None, **settings) -> Path:
        (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        (tmp_path / "batching.pbtxt").write_text("max_batch_size { value: 8 }\n")
        content = {
            "name": "my-deployment",
            "tee": "sgx",
            "model": {"name": "classifier", "path": "model", **(model or {})},
            "image": {"name": "registry.example/team/classifier:1", "base": BASE, "broker_ca": "ca.pem"}
            | (image or {}),
            **settings,
        }
        content["image"] = {key: value for key, value in content["image"].items() if value is not None}
        path = tmp_path / "deployment.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def instructions(path: Path) -> list[tuple[str, str]]:
    parser = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()))
    return [(entry["instruction"], entry["value"]) for entry in parser.structure if entry["instruction"] != "COMMENT"]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_dockerfile_is_the_text_that_was_reviewed(name) -> None:
    path = Path(__file__).parent / "golden" / name
    text = render_dockerfile(GOLDEN[name])
    if os.environ.get("REVIEW_GOLDEN"):  # and read the difference before you commit it
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_deployment_gives_the_same_bytes(deployment, tmp_path, kind) -> None:
    file = deployment(tee="simulated" if kind == "simulated" else "sgx")
    render_context(file, kind, tmp_path / "one", model_size=1000)
    render_context(file, kind, tmp_path / "two", model_size=1000)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert str(tmp_path).encode() not in b"".join(files_of(tmp_path / "one").values())


@pytest.mark.parametrize("kind", [*KINDS, "tensorflow-serving"])
def test_every_dockerfile_is_pinned_copies_what_is_there_and_ends_without_root(deployment, tmp_path, kind) -> None:
    unmodified = kind == "tensorflow-serving"
    model = {"batching": "batching.pbtxt"} | ({"engine": "tensorflow-serving"} if unmodified else {})
    tee = "simulated" if kind == "simulated" else "sgx"
    file = deployment(model=model, image={"model_server": SERVER} if unmodified else None, tee=tee)
    render_context(file, "replica" if unmodified else kind, tmp_path / "c", model_size=1000)
    assert (tmp_path / "c/batching.pbtxt").exists() == unmodified
    found = instructions(tmp_path / "c/Dockerfile")
    stages = {value.split()[-1] for name, value in found if name == "FROM" and " AS " in value}
    for name, value in found:
        words = value.split()
        if name == "FROM":
            assert words[0] in stages or re.search(r"@sha256:[0-9a-f]{64}$", words[0]), value
        if name == "COPY" and not value.startswith("--from"):
            assert {word for word in words[:-1] if not word.startswith("--")} <= set(files_of(tmp_path / "c")), value
        if name == "COPY" and value.startswith("--from"):
            assert words[0].removeprefix("--from=") in stages, value
    last = [name for name, _ in found][len(found) - [name for name, _ in found][::-1].index("FROM") :]
    assert "USER" in last
    assert ("USER", "10001:10001") in found
    text = (tmp_path / "c/Dockerfile").read_text()
    assert "trusted=yes" not in text
    assert "privileged" not in text
    assert "build-essential" not in text
    for name, value in found:
        if name == "RUN" and "apt-get install" in value:
            assert "--no-install-recommends" in value
            assert "rm -rf /var/lib/apt/lists/*" in value
        if name == "RUN" and "pip install" in value:
            assert "--require-hashes --only-binary :all:" in value


def test_a_simulated_replica_has_the_servers_packages_and_no_enclave(deployment, tmp_path) -> None:
    render_context(deployment(tee="simulated"), "simulated", tmp_path / "c")
    text = (tmp_path / "c/requirements.txt").read_text()
    assert "openvino==" in text
    assert "gramine" not in (tmp_path / "c/Dockerfile").read_text()
    with pytest.raises(ConfigurationError, match="for tee: simulated"):
        render_context(deployment(), "simulated", tmp_path / "other")


def test_grammar_of_the_signing_dockerfiles(deployment, tmp_path) -> None:
    render_context(deployment(), "replica", tmp_path / "c", model_size=1000)
    sign = instructions(tmp_path / "c/Dockerfile.sign")
    assert [name for name, _ in sign] == ["ARG", "FROM", "USER", "WORKDIR", "RUN", "FROM", "COPY"]
    # Nothing but signature and manifest leaves the step in which the key is there.
    assert "--mount=type=secret,id=enclave-key" in sign[4][1]
    assert sign[5:] == [("FROM", "scratch AS signature"), ("COPY", "--from=sign /signature/ /")]
    signed = instructions(tmp_path / "c/Dockerfile.signed")
    assert [name for name, _ in signed] == ["ARG", "FROM", "COPY"]


def test_apt_takes_gramine_by_its_key_alone(deployment, tmp_path) -> None:
    render_context(deployment(), "replica", tmp_path / "c", model_size=1000)
    sources = dict(line.split(": ") for line in (tmp_path / "c/gramine.sources").read_text().splitlines())
    assert sources["Signed-By"] == "/etc/apt/keyrings/gramine.gpg"
    assert sources["URIs"].startswith("https://")
    assert "Trusted" not in sources


def test_requirements_have_digests_and_name_the_wheel_beside_them(deployment, tmp_path) -> None:
    render_context(deployment(), "client", tmp_path / "c")
    lines = re.sub(r"\\\n\s*", "", (tmp_path / "c/requirements.txt").read_text()).splitlines()
    assert all("--hash=sha256:" in line for line in lines)
    (wheel,) = (tmp_path / "c").glob("*.whl")
    assert lines[-1] == f"./{wheel.name} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("client", ["client", "grpc"]),
        ("broker", ["broker", "postgres"]),
        ("openvino", ["server"]),
        ("tensorflow", ["server", "tensorflow"]),
    ],
)
def test_locks_have_what_the_extras_ask_for_in_the_versions_that_are_tested(lock, extras) -> None:
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[a-z,]+\])?==([^\s;]+)", path.read_text(), re.MULTILINE))

    locked = pins(ROOT / f"src/sealserve/deploy/images/locks/{lock}.lock")
    tested = pins(ROOT / "requirements/dev.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(entry for extra in extras for entry in project["optional-dependencies"][extra]),
    ]
    names = {re.match(r"[A-Za-z0-9-]+", entry)[0].lower() for entry in asked}
    assert names <= set(locked)
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}


@pytest.mark.slow
def test_the_wheel_is_one_that_pip_installs_and_python_runs(tmp_path, wheel) -> None:
    assert wheel == build_wheel()
    archive = zipfile.ZipFile(io.BytesIO(wheel))
    assert archive.testzip() is None
    names = set(archive.namelist())
    package = Path(sealserve.__path__[0])
    assert {f"sealserve/{path.relative_to(package)}" for path in package.rglob("*.py")} <= names
    assert not [name for name in names if "__pycache__" in name]
    (tmp_path / "sealserve-0.1.0-py3-none-any.whl").write_bytes(wheel)
    target = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    subprocess.run([*install, target, *tmp_path.glob("*.whl")], check=True)
    shown = subprocess.run(
        [sys.executable, "-P", "-c", "import sealserve; print(sealserve.__file__)"],
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == str(target / "sealserve/__init__.py")


def test_a_rendered_directory_is_replaced_and_another_is_left_alone(deployment, tmp_path) -> None:
    file = deployment()
    render_context(file, "replica", tmp_path / "c", model_size=1000)
    context, _ = render_context(file, "client", tmp_path / "c")
    assert not (tmp_path / "c/replica.manifest").exists()
    assert Context.load(tmp_path / "c") == context
    (tmp_path / "c/notes.txt").write_text("mine")
    before = files_of(tmp_path / "c")
    with pytest.raises(InputError, match="no earlier rendering wrote"):
        render_context(file, "broker", tmp_path / "c")
    assert files_of(tmp_path / "c") == before


def test_a_failed_rendering_leaves_nothing(deployment, tmp_path) -> None:
    file = deployment(image={"broker_ca": "missing.pem"})
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"missing\.pem"):
        render_context(file, "replica", tmp_path / "c", model_size=1000)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("broker", {"image": {"base": None}}, "has no image.base"),
        ("client", {"image": {"base": "ubuntu:24.04"}}, "pinned by digest"),
        ("client", {"image": {"name": None}}, "image.name is not set"),
        ("replica", {"model": {"engine": "tensorflow-serving"}}, "needs image.model_server"),
        ("replica", {"tee": "simulated"}, "tee: sgx"),
    ],
)
def test_what_an_image_lacks_is_said(deployment, tmp_path, kind, settings, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        render_context(deployment(**settings), kind, tmp_path / "c", model_size=1000)


def test_without_a_model_its_size_is_asked_for(deployment, tmp_path) -> None:
    with pytest.raises(InputError, match="there is no model"):
        render_context(deployment(), "replica", tmp_path / "c")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kind": "x", "image": "y", "files": [], "version": ""}'])
def test_a_damaged_description_is_said_to_be(tmp_path, content) -> None:
    (tmp_path / "image.json").write_text(content)
    with pytest.raises(InputError):
        Context.load(tmp_path)


def test_the_command_says_what_it_wrote(deployment, tmp_path) -> None:
    arguments = ["broker", "-f", str(deployment()), "-o", str(tmp_path / "c"), "--json"]
    done = CliRunner().invoke(render_command, arguments)
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["image"] == "registry.example/team/classifier-broker:1"
    assert said["files"] == sorted(files_of(tmp_path / "c"))
