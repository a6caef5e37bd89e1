from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from sealserve.cli.init import init
from sealserve.deploy import load_deployment, render_template
from sealserve.deploy.first_cluster import cluster_values
from sealserve.deploy.setting_edit import write_setting
from sealserve.errors import ConfigurationError, InputError
from sealserve.kubernetes.plan import check


def test_a_first_deployment_for_a_cluster_lacks_digests_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    done = CliRunner().invoke(init, ["-f", str(file), "--kubernetes", "--name", "photos", "--broker", "192.0.2.7"])
    assert done.exit_code == 0, done.output
    broker = f"sealserve broker run -f {tmp_path / '.sealserve/owner/broker.yaml'}"
    assert 0 < done.output.index(broker) < done.output.index("sealserve k8s apply")
    for setting in ("kubernetes.image", "kubernetes.sealed_model.image"):
        with pytest.raises(ConfigurationError, match=f"{setting} has no digest yet"):
            check(load_deployment(file))
        write_setting(file, setting, f"sealserve.local/photos:1@sha256:{64 * '1'}")
    write_setting(file, "image.base", f"ubuntu:24.04@sha256:{64 * '2'}")
    deployment = load_deployment(file)
    assert check(deployment) == deployment.kubernetes
    assert deployment.kubernetes is not None
    assert str(deployment.kubernetes.broker) == "192.0.2.7:4433"
    assert deployment.tee == "simulated"
    assert max(len(line) for line in file.read_text().splitlines() if "@sha256:" not in line) <= 100


def test_every_setting_of_a_cluster_is_explained_in_its_file() -> None:
    text = render_template(cluster_values("photos", broker="192.0.2.7"))
    for setting in ("autoscaling:", "resources:", "gateway_class:", "host_path:", "controller_namespace:"):
        assert setting in text


@pytest.mark.parametrize(
    ("image", "name", "replicas", "model"),
    [
        (None, "sealserve.local/p:1", "sealserve.local/p-simulated:1", "sealserve.local/p-model:1"),
        ("r.example/t/a", "r.example/t/a:1", "r.example/t/a-simulated:1", "r.example/t/a-model:1"),
        ("localhost:5000/a", "localhost:5000/a:1", "localhost:5000/a-simulated:1", "localhost:5000/a-model:1"),
        ("localhost:5000/a:7", "localhost:5000/a:7", "localhost:5000/a-simulated:7", "localhost:5000/a-model:7"),
    ],
)
def test_images_are_called_as_the_commands_call_them(image, name, replicas, model) -> None:
    values = cluster_values("p", image=image, broker="192.0.2.7:4433")
    assert values["image.name"] == name
    assert values["kubernetes.image"].startswith(f"{replicas}@")
    assert values["kubernetes.sealed_model.image"].startswith(f"{model}@")


@pytest.mark.parametrize(
    ("broker", "address"),
    [
        ("192.0.2.7", "192.0.2.7:4433"),
        ("host.minikube.internal", "host.minikube.internal:4433"),
        ("2001:db8::1", "[2001:db8::1]:4433"),
        ("broker.example:5000", "broker.example:5000"),
    ],
)
def test_the_broker_is_where_it_is_said_to_be(broker: str, address: str) -> None:
    values = cluster_values("p", broker=broker)
    assert values["kubernetes.broker"] == address
    assert values["image.brokers"] == [f"p-broker.p.svc:{address.rpartition(':')[2]}"]


def test_nonsense_for_a_broker_and_options_that_go_with_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        cluster_values("p", broker="a b")
    file = str(tmp_path / "deployment.yaml")
    assert CliRunner().invoke(init, ["-f", file, "--broker", "192.0.2.7"]).exit_code == 2
    done = CliRunner().invoke(init, ["-f", file, "--kubernetes", "--name", "No Name", "--broker", "192.0.2.7"])
    assert done.exception is not None
    assert not os.path.exists(file)  # noqa: PTH110
