from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kubernetes_cases import AUTHORITY, CASES, MODEL_SIZE, NGINX, objects_in, render, write_deployment

from sealserve import __version__
from sealserve.cli.kubernetes import k8s
from sealserve.deploy import load_deployment
from sealserve.errors import ConfigurationError, InputError, ModelError
from sealserve.kubernetes import render_kubernetes
from sealserve.kubernetes.rendering import plan_deployment, warnings_about
from sealserve.kubernetes.yaml_text import Comment, to_yaml, without_comments

GOLDEN = Path(__file__).parent / "golden"


def test_the_memory_that_the_page_for_newcomers_names_is_what_a_replica_of_its_model_asks_for(tmp_path: Path) -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "kubernetes-quickstart.md").read_text().split())
    (told,) = set(re.findall(r"([0-9.]+) GiB (?:of memory|left)", page))
    deployment = write_deployment(tmp_path, CASES["nginx-simulated"])
    memory = plan_deployment(deployment, model_size=18_600_000).memory  # of EfficientNet-Lite0, with float32 weights
    assert f"{int(memory.removesuffix('Mi')) / 1024:.1f}" == told


@pytest.mark.parametrize("case", CASES)
def test_the_files_are_those_that_were_reviewed(tmp_path: Path, case: str) -> None:
    output = render(tmp_path, CASES[case])
    rendered = {path.name: path.read_text().replace(__version__, "VERSION") for path in output.iterdir()}
    if os.environ.get("REVIEW_GOLDEN"):  # and read the difference before you commit it
        shutil.rmtree(GOLDEN / case, ignore_errors=True)
        (GOLDEN / case).mkdir()
        for name, text in rendered.items():
            (GOLDEN / case / name).write_text(text)
    assert rendered == {path.name: path.read_text() for path in (GOLDEN / case).iterdir()}


def test_rendering_again_gives_the_same_bytes_within_a_second(tmp_path: Path) -> None:
    file, output = write_deployment(tmp_path, CASES["nginx-simulated"]), tmp_path / "k8s"
    render_kubernetes(file, output, model_size=MODEL_SIZE)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    started = time.monotonic()
    render_kubernetes(file, output, model_size=MODEL_SIZE)
    assert time.monotonic() - started < 1
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_image_volumes_are_warned_of_unless_the_cluster_is_known_to_have_them(tmp_path: Path) -> None:
    plan = plan_deployment(write_deployment(tmp_path, CASES["gateway-sgx"]), model_size=MODEL_SIZE)

    def warned(*version: tuple[int, int]) -> bool:
        return any("needs Kubernetes 1.35" in warning for warning in warnings_about(plan, *version))

    assert [warned(), warned((1, 34)), warned((1, 35)), warned((1, 36))] == [True, True, False, False]


def test_files_that_are_not_rendered_any_more_go(tmp_path: Path) -> None:
    assert (render(tmp_path, CASES["nginx-simulated"]) / "broker.yaml").exists()
    assert not (render(tmp_path, {}) / "broker.yaml").exists()


@pytest.mark.parametrize("foreign", ["notes.txt", "kustomization.yaml"])
def test_a_directory_of_somebody_elses_is_left_alone(tmp_path: Path, foreign: str) -> None:
    output = tmp_path / "k8s"
    output.mkdir()
    (output / foreign).write_text("resources: [notes.txt]\n")
    with pytest.raises(InputError, match="nothing in it was touched"):
        render(tmp_path, {})
    assert [path.name for path in output.iterdir()] == [foreign]
    assert (output / foreign).read_text() == "resources: [notes.txt]\n"


def test_a_file_put_beside_the_rendered_ones_is_not_lost(tmp_path: Path) -> None:
    mine = render(tmp_path, {}) / "patch.yaml"
    mine.write_text("mine")
    with pytest.raises(InputError, match="nothing in it was touched") as caught:
        render(tmp_path, {})
    assert "patch.yaml" in str(caught.value.hint)
    assert mine.read_text() == "mine"


def test_no_key_is_in_any_file(tmp_path: Path) -> None:
    machine = tmp_path / ".sealserve" / "platform" / "simulated" / "machine"
    machine.mkdir(parents=True)
    for name in ("pck.key", "attestation.key"):
        (machine / name).write_text("-----BEGIN PRIVATE KEY-----")
    output = render(tmp_path, {})
    assert not any("PRIVATE" in path.read_text() for path in output.iterdir())
    assert not any(found["kind"] == "Secret" for found in objects_in(output))


def test_the_authority_is_the_owners_if_none_is_named(tmp_path: Path) -> None:
    file = write_deployment(tmp_path, {"image": {"broker_ca": None}})
    with pytest.raises(InputError, match="certificate authority") as caught:
        render_kubernetes(file, tmp_path / "k8s", model_size=MODEL_SIZE)
    assert "sealserve prepare" in str(caught.value.hint)
    assert not (tmp_path / "k8s").exists()
    owner = tmp_path / ".sealserve" / "owner"
    owner.mkdir(parents=True)
    (owner / "ca.pem").write_text(AUTHORITY)
    render_kubernetes(file, tmp_path / "k8s", model_size=MODEL_SIZE)
    assert AUTHORITY in [
        found["data"].get("broker-ca.pem") for found in objects_in(tmp_path / "k8s") if found["kind"] == "ConfigMap"
    ]


def test_memory_of_any_size_needs_the_model_and_a_given_one_does_not(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        render_kubernetes(write_deployment(tmp_path, {}), tmp_path / "k8s")
    render_kubernetes(write_deployment(tmp_path, {"kubernetes": {"resources": {"memory": "3Gi"}}}), tmp_path / "k8s")


@pytest.mark.parametrize(
    ("inside", "outside", "setting"), [(4434, 4433, "image.brokers"), (4433, 4434, "kubernetes.broker")]
)
def test_of_two_ports_that_differ_it_is_said_which_to_mend(
    tmp_path: Path, inside: int, outside: int, setting: str
) -> None:
    changes = {
        "broker": {"listen": "0.0.0.0:4433"},
        "image": {"brokers": [f"photos-broker.photos.svc:{inside}"]},
        "kubernetes": {"broker": f"192.0.2.1:{outside}"},
    }
    with pytest.raises(ConfigurationError) as caught:
        render(tmp_path, changes)
    assert caught.value.hint == f"Let {setting} have the port of the other: broker.listen says 4433."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kubernetes": None}, "no section kubernetes"),
        ({"tee": "tdx"}, "TDX guest is a virtual machine"),
        ({"name": "9lives"}, "beginning of names"),
        ({"name": "n" * 60}, "beginning of names"),
        ({"image": {"brokers": None}}, "their own pod"),
        ({"image": {"brokers": ["localhost:4433"]}}, "their own pod"),
        ({"image": {"brokers": ["broker.example:0"]}}, "their own pod"),
        ({"kubernetes": {"broker": "192.0.2.1:4433"}}, "image.brokers does not have that name"),
        ({"kubernetes": {"broker": "127.0.0.1:4433"}}, "none that a pod could connect to"),
        (
            {"image": {"brokers": ["photos-broker.photos.svc:4434"]}, "kubernetes": {"broker": "192.0.2.1:4433"}},
            r"ports differ of .*192.0.2.1:4433.* and image.brokers \(photos-broker.photos.svc:4434\): 4433 and 4434",
        ),
        (
            {
                "gateway": {"rest_listen": "127.0.0.1:8501"},
                "kubernetes": {"edge": {"kind": "transport-server", "controller_namespace": "x"}},
            },
            "one server name to one port",
        ),
        (
            {
                "tee": "sgx",
                "model": {"engine": "tensorflow-serving"},
                "gateway": {"rest_listen": "127.0.0.1:8501"},
            },
            "has no TLS",
        ),
    ],
)
def test_what_cannot_run_in_a_cluster_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        render(tmp_path, changes)
    assert caught.value.hint
    assert not (tmp_path / "k8s").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"image": "classifier:1"}, "kubernetes.image: must be pinned by digest"),
        ({"namespace": "Serving"}, "kubernetes.namespace: must be 1 to 63 lower-case"),
        ({"edge": {}}, "kind: nginx needs image"),
        ({"edge": {"image": "nginx:1.29"}}, "kubernetes.edge.image: must be pinned by digest"),
        ({"edge": {"kind": "gateway", "gateway": "g"}}, "needs controller_namespace"),
        (
            {"edge": {"kind": "node-port", "image": NGINX}},
            "kubernetes.edge.image: goes with kind: nginx, not node-port",
        ),
        ({"edge": {"kind": "node-port", "rest_node_port": 30500}}, "same port as node_port"),
        ({"edge": {"image": NGINX, "resolver": "dns; include x"}}, "kubernetes.edge.resolver: must be a name"),
        ({"sealed_model": {}}, "needs one of claim, image and host_path"),
        ({"sealed_model": {"claim": "c", "host_path": "/srv"}}, "and no two"),
        ({"sealed_model": {"host_path": "/srv/../etc"}}, "must be an absolute path"),
        ({"resources": {"memory": "lots"}}, "must be auto or a size"),
        ({"autoscaling": {"min": 3, "max": 2}}, "must be at least min"),
    ],
)
def test_a_setting_that_cannot_be_is_reported_by_its_name(
    tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_deployment(write_deployment(tmp_path, {"kubernetes": section}))


def test_the_command_says_what_comes_next(tmp_path: Path) -> None:
    arguments = ["render", "-f", str(write_deployment(tmp_path, {})), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(k8s, [*arguments, "--model-size", "1000"])
    assert result.exit_code == 0
    assert "SIMULATED" in result.output
    machine = tmp_path / ".sealserve/platform/simulated/machine"
    assert f"kubectl apply -k {tmp_path / 'out'}" in result.output
    assert f"kubectl -n photos create secret generic photos-simulated-platform --from-file={machine}" in result.output
    told = json.loads(CliRunner().invoke(k8s, [*arguments, "--model-size", "1000", "--json"]).output)
    assert told["files"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert told["namespace"] == "photos"
    assert len(told["steps"]) == 3


def test_a_broker_that_no_pod_could_reach_is_warned_of(tmp_path: Path) -> None:
    for listen, warned in (("127.0.0.1:4433", True), ("0.0.0.0:4433", False), ("192.0.2.1:4433", False)):
        file = write_deployment(tmp_path, {"broker": {"listen": listen}})
        rendered = render_kubernetes(file, tmp_path / "k8s", model_size=MODEL_SIZE)
        assert any("for this machine alone" in warning for warning in rendered.warnings) == warned


def test_yaml_with_comments_says_what_the_objects_say() -> None:
    value = {
        Comment("why " * 60): None,
        "text": "line\n\n  indented\nlast\n",
        "other texts": {
            "no end": "a\nb",
            "windows": "a\r\nb\r\n",
            "indented": "  a\nb\n",
            "blank": "a\n\n",
            "ü": "ü\nß\n",
        },
        "empty": {},
        "none": [],
        "looks like": ["yes", "1", "0400", "null", "a: b", "- x", "#", "é", True, 7],
        "list": [Comment("an entry"), {Comment("in it"): None, "a": {"b": [{"c": 1, "d": 2}]}}, "x"],
    }
    text = to_yaml([value, {"second": 1}], title="title")
    assert list(yaml.safe_load_all(text)) == [without_comments(value), {"second": 1}]
    assert max(map(len, text.splitlines())) <= 100


def test_the_example_of_the_documentation_is_rendered_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0].replace("sha256:...", f"sha256:{64 * '3'}")
    (tmp_path / "deployment.yaml").write_text(example)
    (tmp_path / ".sealserve/owner").mkdir(parents=True)
    (tmp_path / ".sealserve/owner/ca.pem").write_text(AUTHORITY)
    rendered = render_kubernetes(tmp_path / "deployment.yaml", tmp_path / "k8s", model_size=MODEL_SIZE)
    assert f"wrote {len(rendered.files)} files" in page
    assert all(step.split(" --from-file")[0].replace(str(tmp_path / "k8s"), "k8s") in page for step in rendered.steps)
