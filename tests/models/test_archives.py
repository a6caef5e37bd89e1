"""Archives are unpacked below their place, or refused as a whole."""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile

import pytest
from example_graphs import frozen_graph, saved_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.errors import InputError, ModelError, SealserveError
from sealserve.models import archives
from sealserve.models.archives import ArchiveError, unpack
from sealserve.models.fetching import fetch_model
from sealserve.models.kinds import Kind
from sealserve.models.saved_model import read_saved_model

MODEL = saved_model().SerializeToString()
FILES = {"resnet/1538687457/saved_model.pb": MODEL, "resnet/1538687457/variables/variables.index": b"index"}


def tar(files, *, mode="w:gz", **members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            for field, value in members.items():
                setattr(info, field, value)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zipped(files, *, mode=0, compression=zipfile.ZIP_DEFLATED):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return data.getvalue()


def fetched(directory, data, name="a.tar.gz", **arguments):
    source = directory / name
    source.write_bytes(data)
    return fetch_model(str(source), directory / "m", **arguments)


def left(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*")} if directory.exists() else set()


@pytest.mark.parametrize(
    "data", [tar(FILES), tar(FILES, mode="w:"), tar(FILES, mode="w:gz", mtime=1), zipped(FILES)], ids=range(4)
)
def test_a_saved_model_is_taken_out_of_an_archive(tmp_path, data):
    done = fetched(tmp_path, data)
    assert (done.kind, done.path) == (Kind.SAVED_MODEL, tmp_path / "m/1538687457")
    assert left(done.path) == {"saved_model.pb", "variables", "variables/variables.index"}
    assert read_saved_model(done.path).signatures
    assert left(tmp_path / "m") == {"1538687457", "a.tar.gz.sha256"} | {
        f"1538687457/{name}" for name in left(done.path)
    }
    assert stat.S_IMODE((done.path / "saved_model.pb").stat().st_mode) == 0o644
    with pytest.raises(InputError, match="there already"):
        fetched(tmp_path, data)
    assert fetched(tmp_path, data, version=3).path == tmp_path / "m/3"


@pytest.mark.parametrize(
    ("files", "kind", "place"),
    [
        ({"saved_model.pb": MODEL}, Kind.SAVED_MODEL, "1/saved_model.pb"),
        ({"./x/saved_model.pb": MODEL, "x/._saved_model.pb": b"mac"}, Kind.SAVED_MODEL, "1/saved_model.pb"),
        ({"net/frozen.pb": frozen_graph(), "net/net.ckpt.meta": b"x"}, Kind.FROZEN_GRAPH, "frozen.pb"),
        ({"net/resnet.onnx": b"\x08\x07\x3a\x00"}, Kind.ONNX, "1/model.onnx"),
    ],
)
def test_whatever_model_an_archive_holds_gets_its_place(tmp_path, files, kind, place):
    assert fetched(tmp_path, tar(files)).kind is kind
    assert (tmp_path / "m" / place).is_file()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"1/saved_model.pb": MODEL, "2/saved_model.pb": MODEL}, "2 models: 1, 2"),
        ({"README": b"x"}, "no model"),
        ({"config.json": b"{}", "model.weights.h5": b""}, "Keras"),
        ({"x.pb": b"\x08\x01nothing"}, "no model"),
    ],
)
def test_an_archive_without_one_model_is_refused(tmp_path, files, says):
    with pytest.raises(ModelError, match=says):
        fetched(tmp_path, tar(files))
    assert left(tmp_path / "m") == set()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tar({"../x": b""}), "its name is '../x'"),
        (tar({"/etc/x": b""}), "its name is '/etc/x'"),
        (tar({"a/../../x": b""}), "its name is"),
        (tar({"a\\..\\x": b""}), "its name is"),
        (tar({"a\x1b[2Jx": b""}), "its name is"),
        (tar({"a" * 2000: b""}), "its name is"),
        (tar({"x": b""}, type=tarfile.SYMTYPE, linkname="/etc"), "is a link"),
        (tar({"x": b""}, type=tarfile.LNKTYPE, linkname="/etc/passwd"), "is a link"),
        (tar({"x": b""}, type=tarfile.FIFOTYPE), "is a link, a device"),
        (tar({"x": b""}, type=tarfile.CHRTYPE), "is a link, a device"),
        (tar({"x": b"", "x/y": b""}), "cannot be unpacked"),
        (tar(FILES)[:-20], "cannot be unpacked|cut short"),
        (tar(FILES, mode="w:")[:900], "cannot be unpacked|cut short"),
        (zipped({"../x": b""}), "its name is"),
        (zipped({"x": b"/etc"}, mode=stat.S_IFLNK | 0o777), "is a link"),
        (zipped(FILES)[:-30], "cut short"),
        (zipped(FILES)[:100] + b"\0\0\0" + zipped(FILES)[103:], "cannot be unpacked"),
        (zipped(FILES, compression=zipfile.ZIP_STORED).replace(MODEL[:20], b"\0" * 20), "cannot be unpacked"),
        (b"\x1f\x8b\x08garbage", "cannot be unpacked"),
        (b"PK\x03\x04garbage", "cut short"),
        (b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18, "ZIP64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",  # which has the time in it
)
def test_an_archive_that_leads_elsewhere_or_is_damaged_is_refused(tmp_path, data, says):
    with pytest.raises(ArchiveError, match=says):
        fetched(tmp_path, data)
    assert left(tmp_path) - {"a.tar.gz", "m"} == set()


@pytest.mark.parametrize("data", [tar({"x": bytes(5 << 20)}), zipped({"x": bytes(5 << 20)})], ids=["tar", "zip"])
def test_a_small_archive_cannot_fill_a_disk(tmp_path, data):
    assert len(data) < 1 << 20
    with pytest.raises(ArchiveError, match="more than may be unpacked"):
        fetched(tmp_path, data, max_bytes=1 << 20)
    assert left(tmp_path / "m") == set()


def test_a_name_of_many_megabytes_is_not_read(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    data = gzip.compress(header.tobuf() + bytes(1 << 20))
    with pytest.raises(ArchiveError, match="more than may be unpacked"):
        fetched(tmp_path, data)


def block(header, content=b""):
    header.size = header.size or len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def header(name, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type = kind
    return info


def sparse_map(blocks):
    """A sparse file in GNU's old form, whose map goes on for many blocks."""
    first = bytearray(header("s").tobuf(tarfile.GNU_FORMAT))
    first[156:157], first[482:483], first[148:156] = b"S", b"\1", b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    return bytes(first) + ((b"%011o\0" % 1) * 42 + b"\1" + bytes(7)) * blocks


SAYS = b"".join(b"%d k%05d=\n" % (len(str(10)) + 9, number) for number in range(1000))


@pytest.mark.parametrize(
    "data",
    [
        block(header("p", tarfile.XHDTYPE), SAYS) + block(header("x")),
        block(header("p", tarfile.XGLTYPE), SAYS) + block(header("x")),
        b"".join(
            block(header("p", tarfile.XGLTYPE), SAYS[at : at + 1100]) + block(header(f"x{at}"))
            for at in range(0, 11_000, 1100)
        ),
        b"".join(block(header("p", tarfile.XHDTYPE), SAYS[:440]) for _ in range(20)) + block(header("x")),
        sparse_map(100),
    ],
    ids=["of one file", "of all files", "of all files by and by", "one after another", "sparse"],
)
def test_headers_that_would_fill_the_memory_are_not_read(tmp_path, data):
    with pytest.raises(ArchiveError, match=r"more than may be unpacked|more than is read"):
        fetched(tmp_path, gzip.compress(data + bytes(1024), 1))
    assert left(tmp_path / "m") == set()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_whose_output_is_not_bounded_is_refused(tmp_path, compression):
    with pytest.raises(ArchiveError, match="compressed in an unusual way"):
        fetched(tmp_path, zipped(FILES, compression=compression))


def test_the_directories_of_deep_names_count(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 50)
    files = {f"{number}/{'d/' * 30}x": b"" for number in range(3)}
    for data in (tar(files), zipped(files)):
        with pytest.raises(ArchiveError, match="more than 50 entries"):
            fetched(tmp_path, data)


def test_a_zip64_directory_behind_the_longest_comment_is_seen(tmp_path):
    record = b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + bytes(16) + b"\xff\xff" + b"c" * 65535
    with pytest.raises(ArchiveError, match="ZIP64"):
        fetched(tmp_path, b"PK\x03\x04" + bytes(100) + record)


def test_a_great_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 5)
    for data in (tar({str(i): b"" for i in range(6)}), zipped({str(i): b"" for i in range(6)})):
        with pytest.raises(ArchiveError, match="more than 5 entries"):
            fetched(tmp_path, data)


@settings(max_examples=25)
@given(data=st.data())
def test_damaged_archives_end_in_files_below_their_place_or_an_error_of_ours(tmp_path_factory, data):
    whole = bytearray(data.draw(st.sampled_from([tar(FILES, mode="w:"), tar(FILES), zipped(FILES)])))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    place = tmp_path_factory.mktemp("archive")
    (place / "target").mkdir()
    with contextlib.suppress(SealserveError):
        unpack(io.BytesIO(bytes(whole)), "x.tar.gz", place / "target", max_bytes=1 << 20)
    assert [path.name for path in place.iterdir()] == ["target"]
