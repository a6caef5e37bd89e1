"""A sealed model is opened whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealing_files import KEY, pattern

from sealserve.errors import InputError, ModelError, SealError, SealserveError
from sealserve.sealing import (
    EncryptedReader,
    EncryptedWriter,
    FormatVersion,
    SealedFile,
    open_sealed_model,
    seal_model,
    unseal_model,
)
from sealserve.sealing.errors import (
    EmbeddedPathError,
    FileDigestError,
    FileMissingError,
    FileReplacedError,
    ModelDigestError,
    ModelIncompleteError,
    ModelListError,
    SealBrokenError,
    SealedModelError,
    SealedPathError,
    SealingTargetError,
    UnexpectedFileError,
)
from sealserve.sealing.listing import LIST_NAME, SEALS_NAME, ModelList, Seals
from sealserve.sealing.model import embedded_mount
from sealserve.secret import Secret

MOUNT = "/models/classifier/1"
WEIGHTS = "variables/variables.data-00000-of-00001"


@pytest.fixture
def sealed_dir(model_dir: Path, tmp_path: Path, key: Secret) -> Path:
    seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT)
    return tmp_path / "sealed"


def reopen(directory: Path, *, key: bytes = KEY, mount: str = MOUNT, digest: bytes | None = None) -> None:
    """Open and read everything."""
    open_sealed_model(directory, Secret(key), mount=mount, expected_digest=digest).verify()


def tree(directory: Path) -> dict[str, bytes | None]:
    """Names of everything below a directory, with the content of files."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


@pytest.mark.parametrize("version", [1, 2])
def test_a_model_comes_back_as_it_was(model_dir: Path, tmp_path: Path, key: Secret, version: FormatVersion) -> None:
    before = tree(model_dir)
    model = seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT + "/", version=version)
    assert tree(model_dir) == before
    assert model.mount == MOUNT
    assert [file.name for file in model.files] == ["saved_model.pb", WEIGHTS, "variables/variables.index"]
    assert model.total_size == 505_300
    again = unseal_model(tmp_path / "sealed", tmp_path / "clear", key, mount=MOUNT, expected_digest=model.digest)
    assert again.digest == model.digest
    assert tree(tmp_path / "clear") == before
    assert (tmp_path / "clear" / "saved_model.pb").stat().st_mode & 0o777 == 0o600


def test_every_file_embeds_its_path_under_the_mount(sealed_dir: Path, key: Secret) -> None:
    for name in ("saved_model.pb", WEIGHTS, LIST_NAME, SEALS_NAME):
        EncryptedReader.open(sealed_dir / name, key, expected_path=f"{MOUNT}/{name}").close()
    assert embedded_mount(sealed_dir, key) == MOUNT


def test_no_plaintext_and_no_name_of_a_file_lies_in_the_sealed_files(model_dir: Path, sealed_dir: Path) -> None:
    together = b"".join(content for content in tree(sealed_dir).values() if content)
    for content in tree(model_dir).values():
        if content:
            assert content[:64] not in together
            assert content[-64:] not in together
    assert b"variables.index" not in together


def test_the_model_digest_is_the_sha256_of_the_list(sealed_dir: Path, key: Secret, model_dir: Path) -> None:
    model = open_sealed_model(sealed_dir, key, mount=MOUNT)
    with EncryptedReader.open(sealed_dir / LIST_NAME, key) as reader:
        listing = reader.read()
    assert hashlib.sha256(listing).digest() == model.digest
    content = json.loads(listing)
    assert content["directories"] == ["assets"]
    assert content["files"] == [
        {
            "name": name,
            "sha256": hashlib.sha256((model_dir / name).read_bytes()).hexdigest(),
            "size": (model_dir / name).stat().st_size,
        }
        for name in ("saved_model.pb", WEIGHTS, "variables/variables.index")
    ]


def test_the_model_digest_names_the_content_alone(
    model_dir: Path, sealed_dir: Path, tmp_path: Path, key: Secret
) -> None:
    digest = open_sealed_model(sealed_dir, key, mount=MOUNT).digest
    other = seal_model(model_dir, tmp_path / "other", Secret(bytes(16)), mount="elsewhere", version=1)
    assert other.digest == digest
    (model_dir / "saved_model.pb").write_bytes(pattern(5000, 99))
    assert seal_model(model_dir, tmp_path / "changed", key, mount=MOUNT).digest != digest


def test_reading_a_file_of_a_model(sealed_dir: Path, model_dir: Path, key: Secret) -> None:
    model = open_sealed_model(sealed_dir, key, mount=MOUNT)
    assert model.read(WEIGHTS) == (model_dir / WEIGHTS).read_bytes()
    with model.open(WEIGHTS) as reader:
        reader.seek(400_000)
        assert reader.read(10) == (model_dir / WEIGHTS).read_bytes()[400_000:400_010]
    into = io.BytesIO(b"before")
    into.seek(6)
    model.copy_to("saved_model.pb", into)
    assert into.getvalue() == b"before" + (model_dir / "saved_model.pb").read_bytes()
    with pytest.raises(FileMissingError):
        model.open("nothing")


def test_a_large_file_is_copied_into_a_memory_file(tmp_path: Path, key: Secret) -> None:
    (tmp_path / "model").mkdir()
    plain = pattern(5_000_000)
    (tmp_path / "model" / "weights").write_bytes(plain)
    model = seal_model(tmp_path / "model", tmp_path / "sealed", key, mount="/m")
    with os.fdopen(os.memfd_create("weights"), "w+b", buffering=0) as memory:
        model.copy_to("weights", memory)
        memory.seek(0)
        assert memory.read() == plain


# --- what an adversary who has not the key may do to the directory ------------------------------------------------


def test_a_missing_file_is_refused(sealed_dir: Path) -> None:
    (sealed_dir / WEIGHTS).unlink()
    with pytest.raises(FileMissingError, match=r"variables\.data"):
        reopen(sealed_dir)


@pytest.mark.parametrize("name", ["added", "variables/added", "assets/added", "saved_model.pb.old"])
def test_an_added_file_is_refused(sealed_dir: Path, name: str) -> None:
    shutil.copy(sealed_dir / "saved_model.pb", sealed_dir / name)
    with pytest.raises(UnexpectedFileError, match=r"added|old"):
        reopen(sealed_dir)


def test_an_added_directory_is_refused(sealed_dir: Path) -> None:
    (sealed_dir / "assets.extra").mkdir()
    with pytest.raises(UnexpectedFileError, match=r"assets\.extra"):
        reopen(sealed_dir)


def test_a_missing_empty_directory_does_no_harm(sealed_dir: Path) -> None:
    """Copying with tools that know files only must not break a model."""
    (sealed_dir / "assets").rmdir()
    reopen(sealed_dir)


def test_swapped_files_are_refused(sealed_dir: Path) -> None:
    first, second = sealed_dir / "saved_model.pb", sealed_dir / WEIGHTS
    first.rename(sealed_dir / "x")
    second.rename(first)
    (sealed_dir / "x").rename(second)
    with pytest.raises(SealedPathError):
        reopen(sealed_dir)


def test_a_renamed_file_is_refused(sealed_dir: Path) -> None:
    (sealed_dir / "saved_model.pb").rename(sealed_dir / "saved_model.pbtxt")
    with pytest.raises(SealedModelError):
        reopen(sealed_dir)


@pytest.mark.parametrize("name", ["saved_model.pb", WEIGHTS, LIST_NAME, SEALS_NAME])
def test_an_older_copy_of_a_file_is_refused(
    model_dir: Path, sealed_dir: Path, tmp_path: Path, key: Secret, name: str
) -> None:
    for other in model_dir.rglob("*"):
        if other.is_file():
            other.write_bytes(other.read_bytes()[::-1])
    newer = seal_model(model_dir, tmp_path / "newer", key, mount=MOUNT)
    reopen(tmp_path / "newer", digest=newer.digest)
    shutil.copy(sealed_dir / name, tmp_path / "newer" / name)
    with pytest.raises((FileReplacedError, ModelListError, ModelDigestError)):
        reopen(tmp_path / "newer", digest=newer.digest)


def test_a_copy_of_the_same_content_sealed_another_time_is_refused_before_it_is_read(
    model_dir: Path, sealed_dir: Path, tmp_path: Path, key: Secret
) -> None:
    seal_model(model_dir, tmp_path / "again", key, mount=MOUNT)
    shutil.copy(tmp_path / "again" / WEIGHTS, sealed_dir / WEIGHTS)
    with pytest.raises(FileReplacedError):
        open_sealed_model(sealed_dir, key, mount=MOUNT)


def test_a_whole_older_model_is_refused_where_a_digest_is_expected(
    model_dir: Path, sealed_dir: Path, tmp_path: Path, key: Secret
) -> None:
    (model_dir / "saved_model.pb").write_bytes(b"newer")
    newer = seal_model(model_dir, tmp_path / "newer", key, mount=MOUNT)
    with pytest.raises(ModelDigestError, match=newer.digest.hex()):
        reopen(sealed_dir, digest=newer.digest)
    reopen(sealed_dir)


def test_a_file_that_is_replaced_after_opening_is_refused(
    model_dir: Path, sealed_dir: Path, tmp_path: Path, key: Secret
) -> None:
    model = open_sealed_model(sealed_dir, key, mount=MOUNT)
    seal_model(model_dir, tmp_path / "again", key, mount=MOUNT)
    shutil.copy(tmp_path / "again" / WEIGHTS, sealed_dir / WEIGHTS)
    with pytest.raises(FileReplacedError):
        model.copy_to(WEIGHTS, io.BytesIO())
    (sealed_dir / WEIGHTS).unlink()
    with pytest.raises(FileMissingError):
        model.open(WEIGHTS)


@pytest.mark.parametrize("name", ["saved_model.pb", WEIGHTS, LIST_NAME, SEALS_NAME])
def test_a_flipped_bit_in_any_file_is_refused(sealed_dir: Path, name: str) -> None:
    data = bytearray((sealed_dir / name).read_bytes())
    data[-1 if len(data) > 4096 else 200] ^= 1
    (sealed_dir / name).write_bytes(data)
    with pytest.raises(SealBrokenError, match=name):
        reopen(sealed_dir)


@pytest.mark.parametrize("name", ["saved_model.pb", LIST_NAME])
def test_a_link_or_a_pipe_in_place_of_a_file_is_refused_at_once(sealed_dir: Path, tmp_path: Path, name: str) -> None:
    (sealed_dir / name).rename(tmp_path / "moved")
    (sealed_dir / name).symlink_to(tmp_path / "moved")
    with pytest.raises(UnexpectedFileError, match="no regular file"):
        reopen(sealed_dir)
    (sealed_dir / name).unlink()
    os.mkfifo(sealed_dir / name)
    with pytest.raises(UnexpectedFileError, match="no regular file"):
        reopen(sealed_dir)


@pytest.mark.parametrize("put", ["link", "pipe", "nothing", "directory"])
def test_what_is_put_in_place_of_a_file_between_looking_and_opening_is_refused(
    sealed_dir: Path, tmp_path: Path, key: Secret, monkeypatch: pytest.MonkeyPatch, put: str
) -> None:
    model = open_sealed_model(sealed_dir, key, mount=MOUNT)
    path = sealed_dir / WEIGHTS
    shutil.copy(path, tmp_path / "copy")
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        found = real(self)
        if self == path:
            path.unlink()
            if put == "link":
                path.symlink_to(tmp_path / "copy")
            elif put == "pipe":
                os.mkfifo(path)
            elif put == "directory":
                path.mkdir()
        return found

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(SealserveError):
        model.open(WEIGHTS)


def test_a_file_that_cannot_be_read_any_more_is_a_typed_error(
    sealed_dir: Path, key: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_sealed_model(sealed_dir, key, mount=MOUNT)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with model.open(WEIGHTS) as reader:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(InputError, match=r"cannot read .*variables\.data.*Input/output"):
            reader.read()


def test_another_mount_is_refused(sealed_dir: Path) -> None:
    with pytest.raises(SealedPathError):
        reopen(sealed_dir, mount="/models/classifier/2")


def test_another_key_is_refused(sealed_dir: Path) -> None:
    with pytest.raises(SealBrokenError):
        reopen(sealed_dir, key=bytes(16))


@pytest.mark.parametrize("name", [LIST_NAME, SEALS_NAME])
def test_a_directory_without_a_list_is_incomplete(sealed_dir: Path, name: str) -> None:
    (sealed_dir / name).unlink()
    with pytest.raises(ModelIncompleteError):
        reopen(sealed_dir)


def test_a_complete_directory_that_is_still_marked_is_incomplete(sealed_dir: Path) -> None:
    (sealed_dir / "sealserve.incomplete").touch()
    with pytest.raises(ModelIncompleteError):
        reopen(sealed_dir)


# --- and one who has it ---------------------------------------------------------------------------------------------


def forge(directory: Path, name: str, content: bytes) -> None:
    """Write an encrypted file with the right key and path, and put its seal into the seals."""
    with (directory / name).open("w+b") as file, EncryptedWriter(file, Secret(KEY), f"{MOUNT}/{name}") as writer:
        writer.write(content)
    if name in {LIST_NAME, SEALS_NAME}:
        return
    with EncryptedReader.open(directory / SEALS_NAME, Secret(KEY)) as reader:
        seals = Seals.decode(reader.read())
    with EncryptedReader.open(directory / name, Secret(KEY)) as reader:
        seals.identities[name] = reader.identity
    forge(directory, SEALS_NAME, seals.encode())


def test_a_forger_with_the_key_cannot_change_a_file_under_the_same_model_digest(sealed_dir: Path, key: Secret) -> None:
    digest = open_sealed_model(sealed_dir, key, mount=MOUNT).digest
    forge(sealed_dir, WEIGHTS, pattern(500_000, 77))
    model = open_sealed_model(sealed_dir, key, mount=MOUNT, expected_digest=digest)
    for use in (lambda: model.read(WEIGHTS), lambda: model.copy_to(WEIGHTS, io.BytesIO()), model.verify):
        with pytest.raises(FileDigestError, match=r"variables\.data"):
            use()


@pytest.mark.parametrize("change", ["model", "fewer", "more"])
def test_seals_that_belong_to_another_list_are_refused(sealed_dir: Path, key: Secret, change: str) -> None:
    """They are authentic: this is what a mix of two sealed models looks like."""
    with EncryptedReader.open(sealed_dir / SEALS_NAME, key) as reader:
        seals = Seals.decode(reader.read())
    identities = dict(seals.identities)
    if change == "fewer":
        del identities[WEIGHTS]
    elif change == "more":
        identities["other"] = bytes(48)
    forge(sealed_dir, SEALS_NAME, Seals(bytes(32) if change == "model" else seals.model, identities).encode())
    with pytest.raises(ModelListError, match="do not belong together"):
        reopen(sealed_dir)


@pytest.mark.parametrize(
    "change",
    [lambda text: text + " ", lambda text: text.replace(":1}", ":true}"), lambda text: text.replace("1}", "1.0}")],
)
def test_seals_that_are_not_canonical_are_refused(change: Callable[[str], str]) -> None:
    good = Seals(bytes(32), {"a": bytes(48)}).encode()
    assert Seals.decode(good).identities == {"a": bytes(48)}
    assert change(good.decode()) != good.decode()
    with pytest.raises(ModelListError):
        Seals.decode(change(good.decode()).encode())


def test_nothing_is_left_of_a_forged_file_when_unsealing(sealed_dir: Path, tmp_path: Path, key: Secret) -> None:
    forge(sealed_dir, WEIGHTS, pattern(500_000, 77))
    with pytest.raises(FileDigestError):
        unseal_model(sealed_dir, tmp_path / "clear", key, mount=MOUNT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "sealed"]


def _list(**changes: object) -> bytes:
    content: dict[str, object] = {
        "format": "sealserve model list",
        "version": 1,
        "files": [{"name": "a", "sha256": "00" * 32, "size": 1}],
        "directories": [],
    }
    content |= changes
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _named(*names: object) -> bytes:
    return _list(files=[{"name": name, "sha256": "00" * 32, "size": 1} for name in names])


def test_a_plain_list_is_read() -> None:
    assert ModelList.decode(_list()).files == (SealedFile("a", 1, bytes(32)),)
    assert ModelList.decode(_named("a", "b/c")).files[1].name == "b/c"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        _list(format="something else"),
        _list(version=2),
        _list(more=1),
        _list(files={}),
        _list(files=[1]),
        _list(files=[{"name": "a"}]),
        _list(directories=["a"]),
        _list(directories=[1]),
        _list() + b" ",
        _named("../a"),
        _named("/a"),
        _named("a//b"),
        _named("a/./b"),
        _named("a/"),
        _named(""),
        _named("a\0"),
        _named(7),
        _named("sealserve.manifest"),
        _named("\ud800"),
        _list(directories=["\ud800"]),
        _named("a/" * 386 + "a"),
        _named("b", "a"),
        _named("a", "a"),
        _named("a", "a/b"),
        _list(files=[{"name": "a", "sha256": "00" * 31, "size": 1}]),
        _list(files=[{"name": "a", "sha256": "GG" * 32, "size": 1}]),
        _list(files=[{"name": "a", "sha256": "AA" * 32, "size": 1}]),
        _list(files=[{"name": "a", "sha256": "00" * 32, "size": -1}]),
        _list(files=[{"name": "a", "sha256": "00" * 32, "size": True}]),
        _list(files=[{"name": "a", "sha256": "00" * 32, "size": 1.0}]),
        _list(files=[{"name": "a", "sha256": "00" * 32, "size": 1 << 64}]),
    ],
)
def test_a_list_that_is_authentic_but_senseless_is_refused(data: bytes, sealed_dir: Path) -> None:
    with pytest.raises(ModelListError):
        ModelList.decode(data)
    forge(sealed_dir, LIST_NAME, data)
    with pytest.raises(SealError):
        reopen(sealed_dir)


_names = st.text(alphabet="aé./\0b", max_size=8)


@given(st.lists(st.tuples(_names, st.integers(0, 1 << 40), st.binary(min_size=32, max_size=32)), max_size=5))
def test_a_list_is_read_back_or_refused(files: list[tuple[str, int, bytes]]) -> None:
    listing = ModelList.of(SealedFile(*file) for file in files)
    try:
        assert ModelList.decode(listing.encode()) == listing
    except ModelListError:
        names = [name for name, _, _ in files]
        assert any(part in {"", ".", ".."} for name in names for part in name.split("/")) or (
            "\0" in "".join(names) or len(set(names)) < len(names) or any(f"{n}/" in m for n in names for m in names)
        )


# --- sources and targets --------------------------------------------------------------------------------------------


def test_a_link_to_a_file_is_sealed_as_its_content(model_dir: Path, tmp_path: Path, key: Secret) -> None:
    (tmp_path / "blob").write_bytes(b"far away")
    (model_dir / "linked").symlink_to(tmp_path / "blob")
    assert seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT).read("linked") == b"far away"


def test_what_is_no_file_cannot_be_sealed(model_dir: Path, tmp_path: Path, key: Secret) -> None:
    (model_dir / "linked").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="linked"):
        seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT)
    (model_dir / "linked").unlink()
    os.mkfifo(model_dir / "pipe")
    with pytest.raises(ModelError, match="pipe"):
        seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT)
    assert not (tmp_path / "sealed").exists()


def test_a_directory_with_a_reserved_name_cannot_be_sealed(model_dir: Path, tmp_path: Path, key: Secret) -> None:
    (model_dir / LIST_NAME).mkdir()
    (model_dir / LIST_NAME / "x").write_bytes(b"x")
    with pytest.raises(ModelError, match=LIST_NAME):
        seal_model(model_dir, tmp_path / "sealed", key, mount=MOUNT)
    assert not (tmp_path / "sealed").exists()


def test_unsealing_follows_a_link_to_an_empty_directory_and_to_none(
    model_dir: Path, sealed_dir: Path, tmp_path: Path, key: Secret
) -> None:
    (tmp_path / "empty").mkdir()
    for target in ("empty", "missing"):
        (tmp_path / "link").symlink_to(tmp_path / target)
        unseal_model(sealed_dir, tmp_path / "link", key, mount=MOUNT)
        assert tree(tmp_path / target) == tree(model_dir)
        (tmp_path / "link").unlink()


def test_an_empty_or_missing_source_is_refused(tmp_path: Path, key: Secret) -> None:
    for source in (tmp_path / "missing", tmp_path):
        with pytest.raises(ModelError):
            seal_model(source, tmp_path.parent / "sealed", key, mount=MOUNT)


def test_a_sealed_model_is_not_sealed_again(sealed_dir: Path, tmp_path: Path, key: Secret) -> None:
    with pytest.raises(ModelError, match="sealed model"):
        seal_model(sealed_dir, tmp_path / "twice", key, mount=MOUNT)


@pytest.mark.parametrize("mount", ["", ".", "a/.."])
def test_an_empty_mount_is_refused(model_dir: Path, tmp_path: Path, key: Secret, mount: str) -> None:
    with pytest.raises(EmbeddedPathError):
        seal_model(model_dir, tmp_path / "sealed", key, mount=mount)


def test_a_path_that_is_too_long_is_found_before_anything_is_written(
    model_dir: Path, tmp_path: Path, key: Secret
) -> None:
    with pytest.raises(EmbeddedPathError):
        seal_model(model_dir, tmp_path / "sealed", key, mount="/" + "m" * 760)
    assert not (tmp_path / "sealed").exists()


def test_targets_inside_or_around_the_source_are_refused(model_dir: Path, sealed_dir: Path, key: Secret) -> None:
    before = tree(model_dir)
    (model_dir.parent / "link").symlink_to(model_dir)
    for target in (model_dir, model_dir / "sealed", model_dir.parent, model_dir.parent / "link" / "x"):
        with pytest.raises(SealingTargetError):
            seal_model(model_dir, target, key, mount=MOUNT)
        with pytest.raises(SealingTargetError):
            unseal_model(sealed_dir, sealed_dir / "clear", key, mount=MOUNT)
    assert tree(model_dir) == before


def test_a_target_with_other_things_in_it_is_left_alone(model_dir: Path, tmp_path: Path, key: Secret) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.tex").write_text("precious")
    with pytest.raises(SealingTargetError, match="not empty"):
        seal_model(model_dir, target, key, mount=MOUNT, replace=True)
    assert tree(target) == {"thesis.tex": b"precious"}


def test_a_sealed_model_is_replaced_only_on_request(model_dir: Path, sealed_dir: Path, key: Secret) -> None:
    first = open_sealed_model(sealed_dir, key, mount=MOUNT).digest
    (model_dir / "saved_model.pb").write_bytes(b"newer")
    (model_dir / "variables" / "variables.index").unlink()
    with pytest.raises(SealingTargetError, match="already") as refusal:
        seal_model(model_dir, sealed_dir, key, mount=MOUNT)
    assert "--replace" in (refusal.value.hint or "")
    reopen(sealed_dir, digest=first)
    second = seal_model(model_dir, sealed_dir, key, mount=MOUNT, replace=True)
    assert second.digest != first
    reopen(sealed_dir, digest=second.digest)


def test_replacing_stops_at_a_foreign_file(model_dir: Path, sealed_dir: Path, key: Secret) -> None:
    (sealed_dir / "notes.txt").write_text("precious")
    before = tree(sealed_dir)
    with pytest.raises(SealingTargetError, match=r"notes\.txt"):
        seal_model(model_dir, sealed_dir, key, mount=MOUNT, replace=True)
    assert tree(sealed_dir) == before


def test_unsealing_into_a_directory_with_content_is_refused(sealed_dir: Path, tmp_path: Path, key: Secret) -> None:
    (tmp_path / "clear").mkdir()
    (tmp_path / "clear" / "x").write_text("precious")
    with pytest.raises(SealingTargetError):
        unseal_model(sealed_dir, tmp_path / "clear", key, mount=MOUNT)
    assert tree(tmp_path / "clear") == {"x": b"precious"}


def test_progress_runs_to_the_whole_size_once(model_dir: Path, tmp_path: Path, key: Secret) -> None:
    seen: list[tuple[int, int]] = []
    model = seal_model(model_dir, tmp_path / "s", key, mount=MOUNT, progress=lambda *both: seen.append(both))
    assert seen[-1] == (model.total_size, model.total_size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    model.verify(progress=lambda *both: seen.append(both))
    assert seen[-1] == (model.total_size, model.total_size)
