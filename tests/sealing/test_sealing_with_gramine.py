"""Gramine's own tool, where it is installed: it reads what we write, and we read what it writes."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sealing_files import BORDERS, GROUP, KEY, pattern

from sealserve.sealing import FormatVersion, normalise_path, open_sealed_model, seal_model
from sealserve.sealing.convert import decrypt_tree, encrypt_tree
from sealserve.secret import Secret

TOOL = shutil.which("gramine-sgx-pf-crypt")
pytestmark = pytest.mark.skipif(TOOL is None, reason="gramine-sgx-pf-crypt is not on PATH")
SIZES = [*BORDERS, 3072 + GROUP, 3072 + GROUP + 1, 3072 + 34 * GROUP + 1]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("key").write_bytes(KEY)
    Path("plain").mkdir()
    for size in SIZES:
        Path(f"plain/{size}").write_bytes(pattern(size, size))
    return tmp_path


def gramine(*arguments: str) -> None:
    subprocess.run([str(TOOL), *arguments, "-w", "key"], check=True, capture_output=True)


def same(first: str, second: str) -> bool:
    return all((Path(first) / str(size)).read_bytes() == (Path(second) / str(size)).read_bytes() for size in SIZES)


@pytest.mark.parametrize("version", [1, 2])
def test_gramine_reads_what_we_write(work: Path, version: FormatVersion) -> None:
    encrypt_tree("plain", "./ours", Secret(KEY), version=version, say=lambda _: None)
    gramine("decrypt", "-V", "-i", "ours", "-o", "back")
    assert same("plain", "back")


def test_we_read_what_gramine_writes(work: Path) -> None:
    gramine("encrypt", "-i", "plain", "-o", "theirs")
    decrypt_tree("theirs", "back", Secret(KEY), verify_path=True, say=lambda _: None)
    assert same("plain", "back")


def test_gramine_reads_a_sealed_model_at_its_mount(work: Path) -> None:
    seal_model(Path("plain"), Path("sealed"), Secret(KEY), mount=f"{work}/sealed")
    gramine("decrypt", "-V", "-i", f"{work}/sealed", "-o", "back")
    assert same("plain", "back")
    open_sealed_model(Path("sealed"), Secret(KEY), mount=f"{work}/sealed").verify()


def test_paths_are_normalised_as_gramine_does_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool names the path that it embeds, or the one that it could not open."""
    generator = random.Random(3)
    inside = work.joinpath(*"12345678")  # so deep that no `..` leads out of it
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    Path("key").write_bytes(KEY)
    Path("x").write_bytes(b"x")
    for _ in range(150):
        path = "/".join(
            generator.choice(["", ".", "..", "a", "b", "...", "é"]) for _ in range(generator.randrange(1, 8))
        )
        for spelling in {path.lstrip("/") or ".", f"{inside}/{path}"}:
            command = [str(TOOL), "encrypt", "-w", "key", "-i", "x", "-o", spelling]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
            named = re.search(r'exact path: "(.*)"\)', said) or re.search(r"output file '(.*)'", said)
            assert named is None or named[1] == normalise_path(spelling), spelling
            assert named is not None or not normalise_path(spelling), (spelling, said)
