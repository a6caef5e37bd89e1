from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from enclave_signer import sign
from image_deployments import SMALLEST

from sealserve.cli.main import cli
from sealserve.deploy.images.difference import compare
from sealserve.deploy.images.lint import parse_manifest
from sealserve.deploy.images.measuring import difference, measure
from sealserve.errors import InputError, TrustError

SIGNED = """\
loader.argv = ["server", "--threads={threads}"]
sgx.enclave_size = "{size}"
sgx.trusted_files = [
  {{ uri = "file:/usr/bin/server", sha256 = "{server}" }},
  {{ uri = "file:/usr/lib/libz.so.1", sha256 = "{a}" }},
  {extra}
]
"""


def _signed(*, threads: int = 4, size: str = "2G", server: str = "b" * 64, extra: str = "") -> str:
    return SIGNED.format(threads=threads, size=size, server=server, a="a" * 64, extra=extra)


def _build(directory: Path, manifest: str, sigstruct: bytes) -> Path:
    directory.mkdir()
    (directory / "replica.sig").write_bytes(sigstruct)
    (directory / "replica.manifest.sgx").write_text(manifest)
    return directory


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["image", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)


def test_what_changed_between_two_builds_is_named(tmp_path: Path) -> None:
    before = _build(tmp_path / "before", _signed(extra='{ uri = "file:/old", sha256 = "c" }'), sign())
    after = _build(
        tmp_path / "after",
        _signed(threads=8, server="d" * 64, extra='{ uri = "file:/new", sha256 = "c" }'),
        sign(mrenclave=b"\1" * 32),
    )
    found = difference(measure(before), measure(after))
    assert (found.added, found.removed, found.changed) == (("file:/new",), ("file:/old",), ("file:/usr/bin/server",))
    assert found.settings == {"loader.argv": (["server", "--threads=4"], ["server", "--threads=8"])}
    printed = _run("measure", after, "--diff", before).output.splitlines()
    assert printed[-4:] == [
        "+ file:/new",
        "- file:/old",
        "~ file:/usr/bin/server",
        '~ loader.argv: ["server", "--threads=4"] -> ["server", "--threads=8"]',
    ]
    told = json.loads(_run("measure", after, "--diff", before, "--json").output)
    assert told["diff"]["settings"]["loader.argv"]["after"] == ["server", "--threads=8"]
    assert told["mrenclave"] == "01" * 32
    assert difference(measure(before / "replica.manifest.sgx"), measure(after / "replica.sig")) == found


def test_a_measurement_that_changed_with_nothing_in_the_manifest_is_gramines_own(tmp_path: Path) -> None:
    before = _build(tmp_path / "before", _signed(), sign())
    after = _build(tmp_path / "after", _signed(), sign(mrenclave=b"\1" * 32))
    assert "Gramine itself (libpal.so)" in _run("measure", after, "--diff", before).output
    assert _run("measure", before, "--diff", before).output.endswith("no measured file and no setting changed\n")


def test_a_manifest_that_is_not_signed_cannot_be_compared() -> None:
    unsigned = parse_manifest(b'sgx.trusted_files = ["file:/a"]', name="x")
    with pytest.raises(InputError, match="not signed: it has no hash of file:/a"):
        compare(unsigned, unsigned)


def test_a_missing_signed_manifest_is_told(tmp_path: Path) -> None:
    build = _build(tmp_path / "build", _signed(), sign())
    (build / "replica.manifest.sgx").unlink()
    assert measure(build).sigstruct.isv_svn == 1
    with pytest.raises(InputError, match=r"no replica\.manifest\.sgx beside"):
        _run("measure", build, "--diff", build)


@pytest.mark.parametrize("names", [(), ("a.sig", "b.sig")])
def test_a_directory_must_hold_one_sigstruct(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(sign())
    with pytest.raises(
        InputError, match=r"no \.sig file" if not names else r"more than one \.sig file: a\.sig, b\.sig"
    ):
        measure(tmp_path)


def test_a_debug_enclave_is_told_loudly_and_never_reaches_a_policy(tmp_path: Path) -> None:
    build = _build(tmp_path / "build", _signed(), sign(debug=True))
    assert "DEBUG ENCLAVE: the host reads its memory" in _run("measure", build).stderr
    with pytest.raises(TrustError):
        _run("measure", build, "--policy", tmp_path / "policy.yaml")
    assert not (tmp_path / "policy.yaml").exists()


def test_measuring_writes_the_policy(tmp_path: Path) -> None:
    build = _build(tmp_path / "build", _signed(), sign())
    policy = tmp_path / "policy.yaml"
    told = json.loads(_run("measure", build / "replica.sig", "--policy", policy, "--json").output)
    assert "is new, and accepts this very build" in told["result"]
    assert "# replica.sig: product 1, security version 1, signed 2026-07-13" in policy.read_text()


def test_lint_ends_with_4_if_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.manifest"
    path.write_text("sgx.debug = true\n")
    done = _run("lint", path)
    assert done.return_value == 4
    assert f"error: debug-enclave\n  {path}:1: sgx.debug: the enclave is a debug enclave" in done.output
    told = json.loads(_run("lint", path, "--json").output)
    assert {finding["rule"] for finding in told["findings"]} >= {"debug-enclave", "no-remote-attestation"}


def test_a_manifest_is_printed_and_what_is_doubtful_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(json.dumps(SMALLEST))
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "saved_model.pb").write_bytes(bytes(1000))
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"tee: sgx\ncollateral: c.json\nenclaves:\n  - mrenclave: {64 * 'a'}\n")
    done = _run("manifest", "-f", file, "--policy", policy)
    warnings = " ".join(done.stderr.split())
    assert "policy.yaml would refuse every replica of this image" in warnings
    assert "look for the key broker at 127.0.0.1:4433, which is their own container" in warnings
    manifest = tmp_path / "replica.manifest"
    manifest.write_text(done.stdout)
    assert _run("lint", manifest).return_value == 0
    assert _run("manifest", "-f", file, "-o", manifest).stdout == f"wrote {manifest}\n"
    assert manifest.read_text() == done.stdout
