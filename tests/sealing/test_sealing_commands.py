"""The commands: seal, unseal, seal verify, seal inspect, key generate, pf-crypt."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sealing_files import DATA, KEY, golden, pattern, sealed

from sealserve.cli.key import key as key_command
from sealserve.cli.pf_crypt import pf_crypt
from sealserve.cli.seal import seal, unseal
from sealserve.errors import KeyFileError, SealserveError
from sealserve.sealing import EncryptedReader
from sealserve.sealing.errors import (
    FileMissingError,
    ModelDigestError,
    ModelIncompleteError,
    NotSealedError,
    SealBrokenError,
    SealedLengthError,
    SealedPathError,
    SealingTargetError,
)
from sealserve.sealing.metadata import Metadata, make_metadata
from sealserve.secret import Secret


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "wrap.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


def run(command: object, *arguments: object) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result


def refusal(command: object, *arguments: object) -> SealserveError:
    """Run a command that must be refused."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]
    assert isinstance(result.exception, SealserveError), result.output
    return result.exception


def test_sealing_verifying_and_unsealing(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    out = tmp_path / "out"
    report = json.loads(run(seal, model_dir, out, "--key", key_file, "--mount", "/m", "--json").stdout)
    assert report["bytes"] == 505_300
    assert report["mount"] == "/m"
    assert report["files"][0]["name"] == "saved_model.pb"
    assert report["digest"] in run(seal, "verify", out, "--key", key_file).stdout
    verified = run(seal, "verify", out, "--key", key_file, "--mount", "/m", "--digest", report["digest"], "--json")
    assert json.loads(verified.stdout) == report
    run(unseal, out, tmp_path / "clear", "--key", key_file, "--digest", report["digest"])
    assert (tmp_path / "clear" / "saved_model.pb").read_bytes() == (model_dir / "saved_model.pb").read_bytes()
    assert (tmp_path / "clear" / "assets").is_dir()


def test_options_may_come_first(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    run(seal, "--mount", "/m", "--format-version", "1", "--key", key_file, model_dir, tmp_path / "out")
    with EncryptedReader.open(tmp_path / "out" / "saved_model.pb", Secret(KEY)) as reader:
        assert reader.version == 1


def test_a_directory_named_like_a_command_is_given_with_a_path(
    model_dir: Path, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir.rename(tmp_path / "verify")
    monkeypatch.chdir(tmp_path)
    run(seal, "./verify", "out", "--key", key_file, "--mount", "/m")
    run(seal, "verify", "out", "--key", key_file)


def test_the_help_shows_both_forms() -> None:
    shown = run(seal, "--help").stdout
    for expected in ("MODEL_DIR OUT_DIR", "--mount", "verify", "inspect", "--format-version"):
        assert expected in shown


@pytest.mark.parametrize("arguments", [[], ["only-one"], ["--key"], ["a", "b"], ["a", "b", "c", "--key", "k"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(seal, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output or "Usage: " in result.output


def test_refusals_name_their_cause(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    out = tmp_path / "out"
    run(seal, model_dir, out, "--key", key_file, "--mount", "/m")
    assert isinstance(refusal(seal, model_dir, out, "--key", key_file, "--mount", "/m"), SealingTargetError)
    assert isinstance(refusal(seal, "verify", out, "--key", key_file, "--mount", "/n"), SealedPathError)
    assert isinstance(refusal(unseal, out, tmp_path / "c", "--key", key_file, "--digest", "00" * 32), ModelDigestError)
    run(seal, model_dir, out, "--key", key_file, "--mount", "/m", "--replace")
    (out / "saved_model.pb").unlink()
    assert isinstance(refusal(seal, "verify", out, "--key", key_file), FileMissingError)
    key_file.chmod(0o644)
    assert isinstance(refusal(seal, "verify", out, "--key", key_file), KeyFileError)
    assert isinstance(
        refusal(seal, "verify", out, "--key", key_file, "--insecure-allow-readable-key"), FileMissingError
    )


def test_a_digest_that_is_none_is_a_usage_error(tmp_path: Path, key_file: Path) -> None:
    result = CliRunner().invoke(seal, ["verify", str(tmp_path), "--key", str(key_file), "--digest", "abc"])
    assert result.exit_code == 2
    assert "64 hexadecimal digits" in result.output


def test_inspecting_a_file_without_the_key_tells_what_everybody_can_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(sealed(pattern(10_000), path="/secret/name"))
    report = json.loads(run(seal, "inspect", tmp_path / "x", "--json").stdout)
    assert report == {
        "file": str(tmp_path / "x"),
        "format": "2.0",
        "feature_flags": 0,
        "encrypted_bytes": 4 * 4096,
        "plaintext_bytes_at_least": 3072 + 4096 + 1,
        "plaintext_bytes_at_most": 3072 + 2 * 4096,
        "opened": False,
    }
    shown = run(seal, "inspect", tmp_path / "x").stdout
    assert "/secret/name" not in shown
    assert "none of this is authenticated" in shown


@pytest.mark.parametrize("name", ["v1_3073.pf", "v2_0.pf"])
def test_inspecting_a_file_of_gramine(name: str) -> None:
    arguments = ["--key", DATA / "wrap_key", "--insecure-allow-readable-key"]
    report = json.loads(run(seal, "inspect", DATA / name, *arguments, "--json").stdout)
    assert report["path"] == f"pf/{name}"
    assert report["format"] == f"{name[1]}.0"
    assert report["plaintext_bytes"] == int(name[3:-3])
    shown = run(seal, "inspect", DATA / name, *arguments).stdout
    assert f"pf/{name}" in shown
    assert "never authenticated" in shown


def test_inspecting_a_sealed_model(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    out = tmp_path / "out"
    sealed_report = json.loads(run(seal, model_dir, out, "--key", key_file, "--mount", "/m", "--json").stdout)
    without = json.loads(run(seal, "inspect", out, "--json").stdout)
    assert without["opened"] is False
    assert "digest" not in without
    assert len(without["files"]) == 5
    assert "without the wrap key" in run(seal, "inspect", out).stdout
    opened_report = json.loads(run(seal, "inspect", out, "--key", key_file, "--json").stdout)
    assert opened_report["digest"] == sealed_report["digest"]
    assert opened_report["listed"] == sealed_report["files"]
    assert sealed_report["digest"] in run(seal, "inspect", out, "--key", key_file).stdout


def test_inspecting_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"plain")
    assert isinstance(refusal(seal, "inspect", tmp_path / "x"), NotSealedError)
    assert isinstance(refusal(seal, "inspect", tmp_path), NotSealedError)
    (tmp_path / "x").unlink()
    refusal(seal, "inspect", tmp_path)
    refusal(seal, "inspect", tmp_path / "x")


@pytest.mark.timeout(20)
def test_inspecting_a_hostile_directory_neither_blocks_nor_follows_links(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    os.mkfifo(directory / "pipe")
    assert "no regular file" in refusal(seal, "inspect", directory).message
    assert "no regular file" in refusal(seal, "inspect", directory / "pipe").message
    (directory / "pipe").unlink()
    (tmp_path / "x").write_bytes(sealed(b"x"))
    (directory / "link").symlink_to(tmp_path / "x")
    assert "is a link" in refusal(seal, "inspect", directory).message
    run(seal, "inspect", directory / "link")


def test_what_a_terminal_would_obey_is_shown_escaped(tmp_path: Path, key_file: Path) -> None:
    name = os.fsdecode(b"a\x1b[31m\xff")
    header = make_metadata(Metadata(b"/\x1b]0;x\xff", 0, bytes(16), bytes(16), bytes(3072)), Secret(KEY), 2)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(header)
    for arguments in ([tmp_path / "d"], [tmp_path / "d" / name], [tmp_path / "d" / name, "--key", key_file]):
        shown = run(seal, "inspect", *arguments).stdout
        assert "\x1b" not in shown
        assert "a\\x1b[31m\\udcff" in shown
        json.loads(run(seal, "inspect", *arguments, "--json").stdout_bytes)
    (tmp_path / "d" / name).write_bytes(b"plain")
    assert "\x1b" not in refusal(seal, "inspect", tmp_path / "d").message


def test_inspecting_an_unfinished_directory_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(sealed(b"x"))
    (tmp_path / "sealserve.incomplete").touch()
    assert isinstance(refusal(seal, "inspect", tmp_path), ModelIncompleteError)


def test_paths_that_are_too_long_are_refused_by_every_command(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    long, out = tmp_path / ("n" * 300), tmp_path / "out"
    run(seal, model_dir, out, "--key", key_file, "--mount", "/m")
    for command, arguments in [
        (seal, (model_dir, long, "--key", key_file, "--mount", "/m")),
        (seal, (long, tmp_path / "o", "--key", key_file, "--mount", "/m")),
        (seal, ("inspect", long)),
        (seal, ("verify", long, "--key", key_file)),
        (unseal, (out, long, "--key", key_file)),
        (pf_crypt, ("encrypt", "-w", key_file, "-i", model_dir, "-o", long)),
        (pf_crypt, ("decrypt", "-w", key_file, "-i", long, "-o", tmp_path / "o")),
        (key_command, ("generate", long)),
    ]:
        refusal(command, *arguments)


def test_unsealing_into_the_current_directory_is_refused(
    model_dir: Path, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(seal, model_dir, tmp_path / "out", "--key", key_file, "--mount", "/m")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "current directory" in refusal(unseal, "../out", ".", "--key", key_file).message


def test_generating_a_key(tmp_path: Path) -> None:
    path = tmp_path / "new.key"
    assert json.loads(run(key_command, "generate", path, "--json").stdout) == {"key": str(path)}
    first = path.read_bytes()
    assert isinstance(refusal(key_command, "generate", path), KeyFileError)
    assert path.read_bytes() == first
    result = run(key_command, "generate", path, "--force")
    assert path.read_bytes() != first
    assert path.read_bytes().hex() not in result.output


# --- in place of gramine-sgx-pf-crypt -------------------------------------------------------------------------------


def test_a_script_for_gramines_tool_goes_on_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Path("in/a").write_bytes(b"one")
    Path("in/sub").mkdir()
    Path("in/sub/b").write_bytes(pattern(10_000))
    os.mkfifo("in/pipe")
    run(pf_crypt, "gen-key", "-w", "key")
    shown = run(pf_crypt, "encrypt", "-w", "key", "-i", "in", "-o", "./out//x/../files").stderr
    assert "Skipping non-regular file in/pipe" in shown
    key = Secret(Path("key").read_bytes())
    with EncryptedReader.open(Path("out/files/sub/b"), key, expected_path="out/files/sub/b") as reader:
        assert reader.version == 2
    run(pf_crypt, "-V", "-v", "-w", "key", "-i", "out/files", "-o", "back", "decrypt")
    assert Path("back/a").read_bytes() == b"one"
    assert Path("back/sub/b").read_bytes() == pattern(10_000)
    Path("out/files").rename("moved")
    assert isinstance(refusal(pf_crypt, "decrypt", "-V", "-w", "key", "-i", "moved", "-o", "b2"), SealedPathError)
    run(pf_crypt, "decrypt", "-w", "key", "-i", "moved", "-o", "b2")
    run(pf_crypt, "encrypt", "--wrap-key", "key", "--input", "in/a", "--output", "out/a1", "--format-version", "1")
    with EncryptedReader.open(Path("out/a1"), key) as reader:
        assert (reader.version, reader.path, reader.read()) == (1, "out/a1", b"one")


def test_files_of_gramines_tool_are_decrypted_with_their_paths_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DATA, "pf")
    result = run(pf_crypt, "decrypt", "-V", "-w", DATA / "wrap_key", "-i", "pf/../pf//v2_7168.pf", "-o", "plain")
    assert Path("plain").read_bytes() == golden(7168)
    assert "can be read by others" in result.stderr


def test_a_larger_old_output_leaves_nothing_behind(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "plain").write_bytes(b"small")
    (tmp_path / "out").write_bytes(sealed(pattern(100_000)))
    run(pf_crypt, "encrypt", "-w", key_file, "-i", tmp_path / "plain", "-o", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == 4096
    (tmp_path / "back").write_bytes(pattern(100_000))
    run(pf_crypt, "decrypt", "-V", "-w", key_file, "-i", tmp_path / "out", "-o", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"small"


def test_in_place_is_refused_and_destroys_nothing(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "d").mkdir()
    plain = tmp_path / "d" / "plain"
    plain.write_bytes(b"precious")
    (tmp_path / "hard").hardlink_to(plain)
    (tmp_path / "soft").symlink_to(plain)
    for source, target in [
        (plain, plain),
        (plain, tmp_path / "hard"),
        (plain, tmp_path / "soft"),
        (tmp_path / "soft", plain),
        (tmp_path / "d", tmp_path / "d"),
        (tmp_path / "d", tmp_path / "d" / "inside"),
    ]:
        for mode in ("encrypt", "decrypt"):
            refused = refusal(pf_crypt, mode, "-w", key_file, "-i", source, "-o", target)
            assert isinstance(refused, SealingTargetError)
    assert plain.read_bytes() == b"precious"
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["plain"]


def test_nodes_left_behind_by_gramines_tool_are_ignored_with_a_remark(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "x").write_bytes(sealed(b"small") + bytes(8192))
    shown = run(pf_crypt, "decrypt", "-w", key_file, "-i", tmp_path / "x", "-o", tmp_path / "y").stderr
    assert "Ignoring 8192 bytes" in shown
    assert (tmp_path / "y").read_bytes() == b"small"
    assert isinstance(refusal(seal, "inspect", tmp_path / "x", "--key", key_file), SealedLengthError)


def test_a_file_that_does_not_decrypt_leaves_no_output(tmp_path: Path, key_file: Path) -> None:
    data = bytearray(sealed(pattern(100_000)))
    data[-5] ^= 1
    (tmp_path / "x").write_bytes(data)
    (tmp_path / "y").write_bytes(b"old")
    refused = refusal(pf_crypt, "decrypt", "-w", key_file, "-i", tmp_path / "x", "-o", tmp_path / "y")
    assert isinstance(refused, SealBrokenError)
    assert (tmp_path / "y").read_bytes() == b"old"


def test_an_output_that_is_no_regular_file_is_left_alone(tmp_path: Path, key_file: Path) -> None:
    """Renaming over them would destroy `/dev/null` and `/dev/stdout` for the whole machine."""
    (tmp_path / "x").write_bytes(sealed(b"plain"))
    device, link = tmp_path / "device", tmp_path / "link"
    os.mkfifo(device)
    link.symlink_to(tmp_path / "elsewhere")
    for target in (device, link):
        for mode in ("encrypt", "decrypt"):
            refused = refusal(pf_crypt, mode, "-w", key_file, "-i", tmp_path / "x", "-o", target)
            assert isinstance(refused, SealingTargetError)
        assert isinstance(refusal(pf_crypt, "gen-key", "-w", target), SealingTargetError)
    assert device.is_fifo()
    assert link.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_is_converted_into_the_one_around_it(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in/sub").mkdir(parents=True)
    Path("in/sub/a").write_bytes(b"one")
    run(pf_crypt, "encrypt", "-w", key_file, "-i", "in", "-o", ".")
    with EncryptedReader.open(Path("sub/a"), Secret(KEY), expected_path="sub/a") as reader:
        assert reader.read() == b"one"
    Path("in/in").mkdir()
    Path("in/in/sub").write_bytes(b"would be written to in/sub")
    for mode in ("encrypt", "decrypt"):
        assert isinstance(refusal(pf_crypt, mode, "-w", key_file, "-i", "in", "-o", "."), SealingTargetError)
    assert Path("in/sub/a").read_bytes() == b"one"


def test_links_that_lead_back_are_refused_and_do_not_multiply(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).symlink_to(".")
    refused = refusal(pf_crypt, "encrypt", "-w", key_file, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert "leads back" in refused.message
    assert not (tmp_path / "out").exists()


def test_a_file_with_the_longest_name_is_converted_and_sealed(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "in").mkdir()
    name = "n" * 255
    (tmp_path / "in" / name).write_bytes(b"x")
    run(pf_crypt, "encrypt", "-w", key_file, "-i", tmp_path / "in", "-o", tmp_path / "out")
    run(pf_crypt, "decrypt", "-w", key_file, "-i", tmp_path / "out", "-o", tmp_path / "back")
    assert (tmp_path / "back" / name).read_bytes() == b"x"
    run(seal, tmp_path / "in", tmp_path / "sealed", "--key", key_file, "--mount", "/m")
    run(unseal, tmp_path / "sealed", tmp_path / "clear", "--key", key_file)
    assert (tmp_path / "clear" / name).read_bytes() == b"x"


def test_the_console_script_takes_the_arguments_of_gramines_tool(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "x").write_bytes(b"plain")
    program = "from sealserve.cli.pf_crypt import main; main()"
    command = [sys.executable, "-c", program, "encrypt", "-w", key_file, "-i", tmp_path / "x", "-o", tmp_path / "y"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Encrypting: {tmp_path / 'x'} -> {tmp_path / 'y'}" in done.stderr
    with EncryptedReader.open(tmp_path / "y", Secret(KEY), expected_path=str(tmp_path / "y")) as reader:
        assert reader.read() == b"plain"


@pytest.mark.parametrize(
    "arguments", [[], ["encrypt"], ["encrypt", "-w", "k"], ["encrypt", "-w", "k", "-i", "x"], ["other", "-w", "k"]]
)
def test_a_wrong_command_line_for_pf_crypt_is_a_usage_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(pf_crypt, arguments).exit_code == 2


# --- on a terminal --------------------------------------------------------------------------------------------------


def on_terminal(*arguments: object) -> tuple[bytes, bytes]:
    """Run sealserve with standard error on a terminal; give back standard output and what the terminal got."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sealserve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(secondary)
        shown = bytearray()
        while True:
            try:
                piece = os.read(primary, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        output = process.stdout.read()
    os.close(primary)
    assert process.returncode == 0, bytes(shown)
    return output, bytes(shown)


def test_long_work_shows_progress_on_a_terminal_and_nothing_in_a_pipe(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    with (tmp_path / "model" / "1" / "saved_model.pb").open("wb") as file:
        file.truncate(70 << 20)
    arguments = ["seal", tmp_path / "model", tmp_path / "out", "--key", key_file, "--mount", "/m"]
    output, shown = on_terminal(*arguments)
    assert b"sealing" in shown
    assert b"model digest: " in output
    quiet = subprocess.run(
        [sys.executable, "-m", "sealserve", *map(str, arguments), "--replace"], capture_output=True, check=True
    )
    assert quiet.stderr == b""


def test_a_directory_without_a_model_is_sealed_with_a_warning(tmp_path: Path, key_file: Path) -> None:
    for number, (name, warned) in enumerate(
        {"notes": True, "1/saved_model.pb": False, "01/saved_model.pb": True}.items()
    ):
        file = tmp_path / f"model{number}" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "sealserve", "seal", f"model{number}", f"out{number}"),
                *("--key", key_file, "--mount", "/m"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("warning: " in done.stderr) is warned
        assert "1 file, 1 bytes" in done.stdout


def test_short_work_shows_no_progress(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    (model_dir / "1").mkdir(exist_ok=True)
    (model_dir / "1" / "saved_model.pb").write_bytes(b"x")
    _, shown = on_terminal("seal", model_dir, tmp_path / "out", "--key", key_file, "--mount", "/m")
    assert shown == b""


def test_one_encrypted_file_is_verified(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    out = tmp_path / "out"
    run(seal, model_dir, out, "--key", key_file, "--mount", "/m")
    name = next(path.relative_to(model_dir) for path in sorted(model_dir.rglob("*")) if path.is_file())
    told = json.loads(run(seal, "verify", out / name, "--key", key_file, "--json").stdout)
    assert (told["path"], told["size"]) == (f"/m/{name}", (model_dir / name).stat().st_size)
    refusal(seal, "verify", out / name, "--key", key_file, "--mount", "/m")
    damaged = bytearray((out / name).read_bytes())
    damaged[100] ^= 1
    (out / name).write_bytes(damaged)
    refusal(seal, "verify", out / name, "--key", key_file)


def test_a_relative_mount_path_is_refused(model_dir: Path, tmp_path: Path, key_file: Path) -> None:
    error = refusal(seal, model_dir, tmp_path / "out", "--key", key_file, "--mount", "models/m")
    assert "not absolute" in error.message
    assert not (tmp_path / "out").exists()


def test_a_misspelt_command_is_no_model_directory() -> None:
    result = CliRunner().invoke(seal, ["veriffy", "x"])
    assert result.exit_code == 2
    assert "Did you mean 'verify'?" in result.output


@pytest.mark.parametrize("name", ["", "."])
def test_a_key_needs_the_name_of_a_file(name: str) -> None:
    assert "exists already" not in refusal(key_command, "generate", name).message
