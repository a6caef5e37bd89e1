"""Gramine's own tools on what we render, sign and read. Where Gramine is not on PATH, this skips."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from gramine_place import gramine_directory, needs_gramine, run

from sealserve.deploy import load_deployment
from sealserve.deploy.images.layout import ImageLayout
from sealserve.deploy.images.measuring import difference, measure
from sealserve.deploy.images.reference_values import add_reference, lockout_reasons
from sealserve.deploy.images.rendering import render
from sealserve.deploy.images.signing_key import generate_signing_key

pytestmark = [needs_gramine, pytest.mark.slow]

DEPLOYMENTS = {
    "openvino": {},
    "openvino with everything": {
        "model": {"batching": "batching.pbtxt"},
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "image": {"enclave_size": "8G", "max_threads": 200, "isv_prod_id": 7, "isv_svn": 65535},
        "replicas": {"threads": 4},
    },
    "awkward names": {"name": "a" * 60, "tls": {"server_name": "x" * 60 + ".example"}},
    "tensorflow": {"model": {"engine": "tensorflow", "batching": "batching.pbtxt"}},
    "tensorflow-serving": {"model": {"engine": "tensorflow-serving"}},
}


def a_deployment(directory: Path, changes: dict) -> Path:
    content = {"name": "my-deployment", "tee": "sgx", "model": {"name": "classifier", "path": "model"}, "image": {}}
    for name, value in changes.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
    content["image"]["brokers"] = ["broker.example:4433", "192.0.2.1:4433"]
    (directory / "batching.pbtxt").write_text("max_batch_size { value: 8 }")
    file = directory / "deployment.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def an_image(root: Path, manifest: str) -> None:
    """Something at every path that the manifest trusts."""
    for uri in tomllib.loads(manifest)["sgx"]["trusted_files"]:
        path = root / uri.removeprefix("file:/")
        if uri.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            path /= "something.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uri)


@pytest.fixture
def signed(tmp_path):
    """Renders, expands and signs an image of that name; gives the directory with all that came of it."""
    key = tmp_path / "key.pem"
    generate_signing_key(key)

    def sign(name: str, changes: dict, *, touched: str = "") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        deployment = load_deployment(a_deployment(directory, changes))
        layout = ImageLayout(gramine=gramine_directory())
        text, _ = render(deployment, model_size=100 << 20, layout=layout)
        root = directory / "root"
        an_image(root, text)
        if touched:
            (root / touched).write_text("another")
        (directory / "replica.manifest").write_text(text)
        expanded, out = directory / "expanded.manifest", directory / "signed"
        out.mkdir()
        run("gramine-manifest", "--chroot", root, directory / "replica.manifest", expanded)
        for source in (expanded, directory / "replica.manifest"):
            run(
                "gramine-sgx-sign",
                *("--manifest", source, "--key", key, "--chroot", root),
                *("--output", out / "replica.manifest.sgx", "--sigfile", out / "replica.sig", "--date", "2026-07-13"),
            )
        return directory

    return sign


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_gramine_takes_every_manifest_and_its_viewer_agrees_with_our_reader(signed, name):
    directory = signed("build", DEPLOYMENTS[name])
    ours = measure(directory / "signed").sigstruct
    theirs = json.loads(
        run("gramine-sgx-sigstruct-view", "-v", "--output-format", "json", directory / "signed/replica.sig")
    )
    assert {
        "mr_signer": ours.mrsigner.hex(),
        "mr_enclave": ours.mrenclave.hex(),
        "isv_prod_id": ours.isv_prod_id,
        "isv_svn": ours.isv_svn,
        "attribute_flags": hex(int.from_bytes(ours.attributes[:8], "little")),
        "attribute_xfrms": hex(int.from_bytes(ours.attributes[8:], "little")),
        "misc_select": hex(ours.misc_select),
        "attribute_flags_mask": hex(int.from_bytes(ours.attributes_mask[:8], "little")),
        "attribute_xfrm_mask": hex(int.from_bytes(ours.attributes_mask[8:], "little")),
        "misc_mask": hex(ours.misc_mask),
        "date": ours.date,
        "debug_enclave": ours.debug,
    } == theirs
    assert not ours.debug_allowed


def test_the_manifest_says_what_the_sigstruct_says(signed):
    changes = DEPLOYMENTS["openvino with everything"]
    directory = signed("build", changes)
    measured = measure(directory / "signed")
    assert (measured.sigstruct.isv_prod_id, measured.sigstruct.isv_svn) == (7, 65535)
    written = tomllib.loads((directory / "signed/replica.manifest.sgx").read_text())
    rendered = tomllib.loads((directory / "replica.manifest").read_text())
    for section in ("fs", "libos", "sys"):
        assert written[section] == rendered[section]
    assert written["loader"].pop("entrypoint")["uri"].endswith("/libsysdb.so")
    assert written["loader"] == rendered["loader"]
    assert written["sgx"]["enclave_size"] == "8G"
    assert written["sgx"]["max_threads"] == 200
    digests = {entry["uri"]: entry["sha256"] for entry in written["sgx"]["trusted_files"]}
    broker_ca = "file:/etc/sealserve/broker-ca.pem"
    assert digests[broker_ca] == hashlib.sha256(broker_ca.encode()).hexdigest()


def test_one_changed_file_is_named_and_changes_the_measurement(signed):
    before = measure(signed("before", {}) / "signed")
    same = measure(signed("same", {}) / "signed")
    after = measure(signed("after", {}, touched="usr/lib/python3.12/something.so") / "signed")
    assert same.sigstruct.mrenclave == before.sigstruct.mrenclave != after.sigstruct.mrenclave
    assert same.sigstruct.mrsigner == after.sigstruct.mrsigner
    assert "/usr/lib/python3.12/something.so" in repr(difference(before, after))


def test_a_policy_takes_what_gramine_signed(signed, tmp_path):
    sigstruct = measure(signed("build", {}) / "signed").sigstruct
    policy = tmp_path / "policy.yaml"
    for accept in ("build", "signer"):
        add_reference(policy, sigstruct, accept=accept, source="replica.sig")
    assert sigstruct.mrenclave.hex() in policy.read_text()
    assert lockout_reasons(policy, isv_prod_id=1, isv_svn=1, mrsigner=sigstruct.mrsigner) == []


def test_gramine_refuses_what_is_no_setting(tmp_path):
    """Or the tests above would say nothing."""
    directory = tmp_path / "build"
    directory.mkdir()
    text, _ = render(load_deployment(a_deployment(directory, {})), model_size=1 << 20)
    (directory / "replica.manifest").write_text(re.sub("sgx.max_threads", "sgx.maximal_threads", text))
    with pytest.raises(RuntimeError, match="maximal_threads"):
        run("gramine-manifest", "--chroot", directory, directory / "replica.manifest")
