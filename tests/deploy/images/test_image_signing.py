"""Buildah signs an image with our commands: the real engine, and a stand-in for Gramine's signing tool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from sealserve.cli.image_build import sign
from sealserve.deploy.images.dockerfile import render_signed_dockerfile, render_signing_dockerfile
from sealserve.deploy.images.signing_key import generate_signing_key
from sealserve.errors import MachineError

# A program of the shell alone: the image has nothing else. It says what it was called with and given.
TOOL = """#!/bin/sh
echo "called with $*"
while read -r line; do last=$line; done < /run/secrets/enclave-key
echo "manifest" > replica.manifest.sgx
echo "key that ends with ${last}" > /proof
echo "signature" > replica.sig
"""


def run(*arguments: str | Path, **options) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True, **options).stdout.strip()


@pytest.fixture
def unsigned(tmp_path, monkeypatch):
    """The name of an image with a shell and the stand-in, in a storage of its own."""
    buildah = shutil.which("buildah")
    if buildah is None or os.geteuid() != 0:
        pytest.skip("needs buildah, and root")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/storage"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    root = tmp_path / "root"
    libraries = re.findall(r"(/\S+)", run("ldd", "/bin/sh"))
    for file in ("/bin/sh", *libraries):
        target = root / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(file).resolve(), target)
    (root / "opt/replica").mkdir(parents=True)
    (root / "opt/replica/replica.manifest").write_text("manifest")
    (root / "bin/gramine-sgx-sign").write_text(TOOL)
    (root / "bin/gramine-sgx-sign").chmod(0o755)
    container = run(buildah, "from", "scratch")
    run(buildah, "copy", "-q", container, root, "/")
    run(buildah, "commit", "-q", container, "localhost/a:1-unsigned")
    yield buildah
    run(buildah, "rm", "--all")


@pytest.mark.slow
def test_the_key_is_in_the_step_that_signs_and_nowhere_else(unsigned, tmp_path) -> None:
    context, out, key = tmp_path / "c", tmp_path / "signature", tmp_path / "key.pem"
    context.mkdir()
    (context / "image.json").write_text(
        '{"kind": "replica", "image": "localhost/a:1", "rest": false, "sealed_mount": "/sealed", "tls": false, '
        '"version": "0", "files": []}'
    )
    (context / "Dockerfile.sign").write_text(render_signing_dockerfile())
    (context / "Dockerfile.signed").write_text(render_signed_dockerfile())
    generate_signing_key(key)
    arguments = ["--context", str(context), "--engine", "buildah", "--key", str(key), "-o", str(out)]
    with (tmp_path / "log").open("w+b") as log:
        # What the engine says goes past Python's streams.
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            done = CliRunner().invoke(sign, arguments)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    said = (tmp_path / "log").read_text()
    assert done.exit_code == 0, done.output + said
    assert "called with --quiet --date 0000-00-00 --key /run/secrets/enclave-key" in said
    assert {path.name for path in out.iterdir()} == {"replica.sig", "replica.manifest.sgx"}

    pem = key.read_text().splitlines()
    secret = pem[len(pem) // 2]
    kept = [path for path in (tmp_path / "storage").rglob("*") if path.is_file() and not path.is_symlink()]
    assert kept
    assert not [path for path in kept if secret.encode() in path.read_bytes()]
    assert secret not in said + done.output

    container = run(unsigned, "from", "localhost/a:1")
    mounted = Path(run(unsigned, "mount", container))
    assert (mounted / "opt/replica/replica.sig").read_text() == "signature\n"
    assert not (mounted / "proof").exists()


@pytest.mark.slow
def test_an_image_that_was_not_built_here_is_not_signed(unsigned, tmp_path) -> None:
    context, key = tmp_path / "c", tmp_path / "key.pem"
    context.mkdir()
    (context / "image.json").write_text(
        '{"kind": "replica", "image": "localhost/b:1", "rest": false, "sealed_mount": "/sealed", "tls": false, '
        '"version": "0", "files": []}'
    )
    generate_signing_key(key)
    arguments = ["--context", str(context), "--engine", "buildah", "--key", str(key), "-o", str(tmp_path / "s")]
    done = CliRunner().invoke(sign, arguments)
    assert isinstance(done.exception, MachineError)
    assert not list((tmp_path / "s").iterdir())
