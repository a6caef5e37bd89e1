"""Downloads: what they bring, how they go on, and what is refused. Nothing is half written."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from download_server import make_certificate, serving
from example_graphs import frozen_graph, saved_model

from sealserve.cli.model import model as model_command
from sealserve.errors import InputError, MachineError, ModelError, TrustError, UnavailableError
from sealserve.models import catalogue, download, fetching, placing
from sealserve.models.catalogue import Download
from sealserve.models.download import PlainHttpError, ServerCertificateError, shown
from sealserve.models.fetching import DigestMismatchError, fetch_model
from sealserve.models.kinds import Kind
from sealserve.models.part_file import PartFile
from sealserve.models.saved_model import read_saved_model

GRAPH = frozen_graph()
LARGE = GRAPH + b"\x22\x02\x08\x1b" * 100_000  # the same graph, its version said many times
DIGEST = hashlib.sha256(GRAPH).hexdigest()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture(autouse=True)
def _trusted(monkeypatch, certificate):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(download, "_PAUSES", ())


def left(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")} if directory.exists() else set()


def test_a_frozen_graph_is_kept_as_a_file_with_its_digest_beside_it(tmp_path, certificate):
    with serving(GRAPH, certificate) as (base, _):
        done = fetch_model(f"{base}/resnet.pb?token=secret", tmp_path / "m")
    assert done.path.read_bytes() == GRAPH
    assert (done.kind, done.sha256, done.trusted, done.origin) == (Kind.FROZEN_GRAPH, DIGEST, None, "localhost")
    assert left(tmp_path / "m") == {"resnet.pb", "resnet.pb.sha256"}
    assert (tmp_path / "m/resnet.pb.sha256").read_text() == f"{DIGEST}  resnet.pb\n"
    assert f"--import_path {tmp_path}/m/resnet.pb --export_dir {tmp_path}/m" in done.following


def test_a_file_that_is_there_is_checked_and_not_fetched_again(tmp_path, certificate):
    with serving(GRAPH, certificate) as (base, does):
        fetch_model(f"{base}/a.pb", tmp_path)
        assert fetch_model(f"{base}/a.pb", tmp_path).trusted == "recorded"
        assert len(does.seen) == 1
        (tmp_path / "a.pb").write_bytes(b"other")
        with pytest.raises(DigestMismatchError, match="not the file that it should be"):
            fetch_model(f"{base}/a.pb", tmp_path)


def test_a_later_download_must_bring_the_same_as_the_first(tmp_path, certificate):
    with serving(GRAPH, certificate) as (base, does):
        fetch_model(f"{base}/a.pb", tmp_path)
        (tmp_path / "a.pb").unlink()
        assert fetch_model(f"{base}/a.pb", tmp_path).trusted == "recorded"
        (tmp_path / "a.pb").unlink()
        does.content, does.etag = LARGE, '"two"'
        with pytest.raises(DigestMismatchError) as caught:
            fetch_model(f"{base}/a.pb", tmp_path)
    assert "a.pb.sha256" in caught.value.hint
    assert left(tmp_path) == {"a.pb.sha256"}


def test_another_digest_than_the_given_is_refused_and_nothing_is_kept(tmp_path, certificate):
    with serving(GRAPH, certificate) as (base, _):
        with pytest.raises(DigestMismatchError, match=DIGEST):
            fetch_model(f"{base}/a.pb", tmp_path / "m", sha256="0" * 64)
        assert left(tmp_path) == set()
        assert fetch_model(f"{base}/a.pb", tmp_path / "m", sha256=DIGEST.upper()).trusted == "given"
        with pytest.raises(DigestMismatchError, match="earlier fetch"):
            fetch_model(f"{base}/a.pb", tmp_path / "m", sha256="0" * 64)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
    ],
)
def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path, certificate, settings):
    with serving(LARGE, certificate, cut_after=150_000, **settings) as (base, does):
        with pytest.raises(UnavailableError, match="connection ended after 150,000 bytes"):
            fetch_model(f"{base}/a.pb", tmp_path)
        assert left(tmp_path) == {"a.pb.part", "a.pb.part.json"}
        assert "localhost" not in (tmp_path / "a.pb.part.json").read_text()
        done = fetch_model(f"{base}/a.pb", tmp_path)
    assert does.seen[1]["Range"] == "bytes=150000-"
    assert does.seen[1]["If-Range"] in {'"one"', "Mon, 01 Jan 2024 00:00:00 GMT"}
    assert done.path.read_bytes() == LARGE
    assert left(tmp_path) == {"a.pb", "a.pb.sha256"}


def test_a_download_that_broke_off_is_gone_on_with_at_once(tmp_path, certificate, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0.0,))
    with serving(LARGE, certificate, cut_after=150_000) as (base, does):
        assert fetch_model(f"{base}/a.pb", tmp_path).path.read_bytes() == LARGE
    assert len(does.seen) == 2


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ({"ranges": False}, {}),
        ({"etag": None}, {}),
        ({"etag": 'W/"weak"'}, {}),
        ({}, {"etag": '"two"', "content": LARGE[:200_000]}),
        ({}, {"content": LARGE[:100_000], "ranges": False}),
    ],
    ids=["no ranges", "no validator", "weak validator", "changed meanwhile", "shorter meanwhile"],
)
def test_what_cannot_be_gone_on_with_begins_anew(tmp_path, certificate, before, then):
    with serving(LARGE, certificate, cut_after=150_000, **before) as (base, does):
        with pytest.raises(UnavailableError):
            fetch_model(f"{base}/a.pb", tmp_path)
        for name, value in then.items():
            setattr(does, name, value)
        assert fetch_model(f"{base}/a.pb", tmp_path).path.read_bytes() == does.content


def test_a_beginning_of_another_address_is_not_gone_on_with(tmp_path, certificate):
    with serving(LARGE, certificate, cut_after=150_000) as (base, does):
        with pytest.raises(UnavailableError):
            fetch_model(f"{base}/x/a.pb", tmp_path)
        fetch_model(f"{base}/y/a.pb", tmp_path)
    assert "Range" not in does.seen[1]


def test_a_complete_part_is_taken_without_another_download(tmp_path, certificate):
    with serving(GRAPH, certificate) as (base, does):
        with PartFile(tmp_path / "a.pb.part") as part:
            part.begin(f"{base}/a.pb", '"one"')
            part.append(GRAPH)
        assert fetch_model(f"{base}/a.pb", tmp_path).path.read_bytes() == GRAPH
        assert does.seen[0]["Range"] == f"bytes={len(GRAPH)}-"


def test_another_part_than_was_asked_for_is_refused(tmp_path, certificate):
    with serving(LARGE, certificate, cut_after=150_000, wrong_part=True) as (base, _):
        for says in ("connection ended", "another part"):
            with pytest.raises(UnavailableError, match=says):
                fetch_model(f"{base}/a.pb", tmp_path)
        assert fetch_model(f"{base}/a.pb", tmp_path).path.read_bytes() == LARGE


@pytest.mark.parametrize("content", ["[" * 60_000, '"a"\r\nX: y', '"\u4e2d"'], ids=["deep", "two lines", "Chinese"])
def test_a_note_that_somebody_else_wrote_is_no_trouble(tmp_path, certificate, content):
    with serving(LARGE, certificate) as (base, _):
        url = f"{base}/resnet.pb"
        note = content
        if not content.startswith("["):
            note = json.dumps({"address": hashlib.sha256(url.encode()).hexdigest(), "validator": content})
        (tmp_path / "resnet.pb.part").write_bytes(LARGE[:100])
        (tmp_path / "resnet.pb.part.json").write_text(note)
        assert fetch_model(url, tmp_path).path.read_bytes() == LARGE


@pytest.mark.parametrize("kind", ["fifo", "hard link", "symbolic link", "of another user"])
def test_a_part_that_is_not_this_users_alone_is_not_written(tmp_path, certificate, kind, monkeypatch):
    part, other = tmp_path / "m/resnet.pb.part", tmp_path / "other"
    part.parent.mkdir()
    other.write_bytes(b"precious")
    if kind == "fifo":
        os.mkfifo(part)
    elif kind == "hard link":
        part.hardlink_to(other)
    elif kind == "symbolic link":
        part.symlink_to(other)
    else:
        part.write_bytes(b"x")
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with serving(GRAPH, certificate) as (base, _), pytest.raises(InputError, match=r"yours alone|cannot write"):
        fetch_model(f"{base}/resnet.pb", tmp_path / "m")
    assert other.read_bytes() == b"precious"
    assert left(tmp_path / "m") == {"resnet.pb.part"}


@pytest.mark.parametrize("location", ["https://[x/y.pb", f"https://{'a' * 300}/y.pb", "https://a..b/y.pb"])
def test_a_redirect_to_a_host_that_cannot_be_one_is_explained(tmp_path, certificate, location):
    with (
        serving(GRAPH, certificate, status=302, location=location) as (base, _),
        pytest.raises(InputError, match="leads to one"),
    ):
        fetch_model(f"{base}/resnet.pb", tmp_path / "m")
    assert left(tmp_path / "m") == set()


def test_what_comes_with_a_redirect_is_not_read(tmp_path, certificate):
    # The server says that a terabyte follows, and sends nothing of it.
    with (
        serving(GRAPH, certificate) as (second, _),
        serving(b"", certificate, status=302, location=f"{second}/x.pb", redirect_length=1 << 40) as (first, _),
    ):
        assert fetch_model(f"{first}/resnet.pb", tmp_path / "m", timeout=5).path.read_bytes() == GRAPH


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    (tmp_path / "a.pb").write_bytes(GRAPH)
    mine = tmp_path / "m/.fetched.0123456789ab.partial"
    (mine / "variables").mkdir(parents=True)
    fetch_model(str(tmp_path / "a.pb"), tmp_path / "m")
    assert left(tmp_path / "m") == {"a.pb", "a.pb.sha256"}


def test_of_two_fetches_into_one_place_the_slower_is_told_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07\x3a\x00")
    monkeypatch.setattr(placing, "_sync", lambda _path: (tmp_path / "m/1/other").mkdir(parents=True, exist_ok=True))
    with pytest.raises(InputError, match="m/1 is there already"):
        fetch_model(str(tmp_path / "a.onnx"), tmp_path / "m")
    assert left(tmp_path / "m") == {"1", "1/other"}


def test_a_copy_that_finds_no_place_is_not_kept(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07\x3a\x00")
    (tmp_path / "m/1").mkdir(parents=True)
    with pytest.raises(InputError, match="there already"):
        fetch_model(str(tmp_path / "a.onnx"), tmp_path / "m")
    assert left(tmp_path / "m") == {"1"}


def test_links_among_directories_are_not_followed_when_a_directory_is_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(saved_model().SerializeToString())
    for name in ("a", "b"):
        (source / name).symlink_to(".")  # followed, these are 2⁴⁰ directories
    os.mkfifo(source / "pipe")
    (source / "endless").symlink_to("/dev/zero")
    fetch_model(str(source), tmp_path / "m")
    assert left(tmp_path / "m") == {"1", "1/saved_model.pb"}


def test_a_mangled_note_beside_a_part_is_no_trouble(tmp_path, certificate):
    for note in (b"\xff{", b"[]", b'{"url": 1}'):
        (tmp_path / "a.pb.part").write_bytes(b"x" * 10)
        (tmp_path / "a.pb.part.json").write_bytes(note)
        with serving(GRAPH, certificate) as (base, _):
            fetch_model(f"{base}/a.pb", tmp_path).path.unlink()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"declared": len(GRAPH) + 5}, UnavailableError, "connection ended after"),
        ({"chunked": True, "cut_after": 50}, UnavailableError, "connection ended after 50 bytes"),
        ({"length": False}, UnavailableError, "does not say how long"),
        ({"encoding": "gzip"}, UnavailableError, "encoding"),
        ({"declared": 3 << 30}, InputError, "3,221,225,472 bytes: more than"),
        ({"status": 404}, InputError, "404 Not Found"),
        ({"status": 403}, InputError, "403 Forbidden"),
        ({"status": 503}, UnavailableError, "503 Service Unavailable"),
        ({"status": 302, "location": "https://localhost:1/a.pb"}, UnavailableError, "refused"),
        ({"status": 302, "location": "file:///etc/passwd"}, InputError, "302 Found"),
        ({"stall_after": 0}, UnavailableError, "nothing came"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_download_that_cannot_be_had_is_explained_and_leaves_no_model(tmp_path, certificate, settings, error, says):
    with serving(GRAPH, certificate, **settings) as (base, _), pytest.raises(error, match=says) as caught:
        fetch_model(f"{base}/a.pb?key=secret", tmp_path / "m", timeout=0.3)
    assert "secret" not in str(caught.value)
    assert caught.value.hint
    assert not {name for name in left(tmp_path) if not name.endswith((".part", ".part.json"))} - {"m"}


def test_more_than_is_allowed_is_not_fetched_to_its_end(tmp_path, certificate):
    for settings in ({}, {"chunked": True}):
        with (
            serving(LARGE, certificate, **settings) as (base, _),
            pytest.raises(InputError, match=r"more bytes|bytes: more"),
        ):
            fetch_model(f"{base}/a.pb", tmp_path / "m", max_bytes=100_000)
        assert left(tmp_path) <= {"m"}


def test_a_full_disk_is_told_before_anything_comes(tmp_path, certificate, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: usage)
    with serving(GRAPH, certificate) as (base, _), pytest.raises(MachineError, match="has 10 left"):
        fetch_model(f"{base}/a.pb", tmp_path / "m")
    assert left(tmp_path) == set()


def test_plain_http_needs_a_digest(tmp_path):
    with serving(GRAPH) as (base, does):
        with pytest.raises(PlainHttpError) as caught:
            fetch_model(f"{base}/a.pb", tmp_path / "m")
        assert "--sha256" in caught.value.hint
        assert (does.seen, left(tmp_path)) == ([], set())
        done = fetch_model(f"{base}/a.pb", tmp_path / "m", sha256=DIGEST)
        assert done.trusted == "given"
        done.path.unlink()
        assert fetch_model(f"{base}/a.pb", tmp_path / "m").trusted == "recorded"


def test_a_redirect_leads_to_another_host_but_not_to_plain_http(tmp_path, certificate):
    with serving(GRAPH, certificate) as (there, _), serving(GRAPH) as (plain, seen):
        redirect = {"status": 302, "location": f"{there.replace('localhost', '127.0.0.1')}/x"}
        with serving(b"", certificate, **redirect) as (base, does):
            assert fetch_model(f"{base}/a.pb", tmp_path / "m").origin == "127.0.0.1"
            does.location = f"{plain}/x"
            with pytest.raises(PlainHttpError):
                fetch_model(f"{base}/b.pb", tmp_path / "n")
            does.location = "/a.pb"
            with pytest.raises(InputError, match="302"):
                fetch_model(f"{base}/b.pb", tmp_path / "n")
    assert seen.seen == []


@pytest.mark.parametrize(("host", "days"), [("other.example", 1), ("localhost", -1)], ids=["other name", "expired"])
def test_a_certificate_that_is_not_valid_ends_it(tmp_path, host, days, monkeypatch):
    path = make_certificate(tmp_path / "bad.pem", host=host, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with serving(GRAPH, path) as (base, does), pytest.raises(ServerCertificateError, match="localhost is not valid"):
        fetch_model(f"{base}/a.pb", tmp_path / "m")
    assert does.seen == []


def test_an_unknown_authority_ends_it(tmp_path, certificate, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with serving(GRAPH, certificate) as (base, _), pytest.raises(TrustError, match="not valid"):
        fetch_model(f"{base}/a.pb", tmp_path / "m")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/a.pb", "no address"),
        ("file:///etc/passwd", "no address"),
        ("https:///a.pb", "no address"),
        ("https://host:99999/a.pb", "no address"),
        ("https://host/a b.pb", "no address"),
        ("https://host/\x1b[31m.pb", "no address"),
        ("https://user:hunter2@host/a.pb", "password"),
        ("https://host/", "usual name"),
        ("https://host/..%2f..%2fetc", "usual name"),
        ("https://host/.bashrc", "usual name"),
    ],
)
def test_an_address_that_cannot_be_fetched_is_refused(tmp_path, url, says):
    with pytest.raises(InputError, match=says) as caught:
        fetch_model(url, tmp_path / "m")
    assert "hunter2" not in str(caught.value)
    assert left(tmp_path) == set()


def test_an_address_is_shown_without_its_secrets():
    assert shown("https://u:p@host/a/b.pb?sig=s&x=1") == "https://host/a/b.pb?…"


def test_a_download_from_nowhere_says_so(tmp_path):
    with pytest.raises(UnavailableError, match="cannot be fetched") as caught:
        fetch_model("https://localhost:1/a.pb", tmp_path / "m")
    assert "connection" in caught.value.hint
    assert left(tmp_path) == set()


def test_two_downloads_into_one_file_do_not_mix(tmp_path, certificate):
    with serving(LARGE, certificate, stall_after=1000) as (base, does):

        def fetch():
            with pytest.raises(UnavailableError):
                fetch_model(f"{base}/a.pb", tmp_path, timeout=0.5)

        first = threading.Thread(target=fetch)
        first.start()
        while not does.seen:
            pass
        with pytest.raises(InputError, match="another download"):
            fetch_model(f"{base}/a.pb", tmp_path)
        first.join()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"GRAFS_PF\x02", "encrypted"),
        (b"node {\n name: 'x'", "text form"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\xde\xad\xbe\xef", "no model that is known"),
        (b"", "no model that is known"),
    ],
)
def test_what_is_no_model_is_named_and_not_kept(tmp_path, certificate, content, says):
    with serving(content, certificate) as (base, _), pytest.raises(ModelError, match=says):
        fetch_model(f"{base}/a.pb", tmp_path / "m")
    assert left(tmp_path) == set()


def test_files_that_can_be_served_get_a_version(tmp_path, certificate):
    with serving(saved_model().SerializeToString(), certificate) as (base, does):
        done = fetch_model(f"{base}/saved_model.pb", tmp_path)
        assert read_saved_model(tmp_path / "1").signatures
        assert done.following == f"sealserve model inspect {tmp_path}"
        with pytest.raises(InputError, match="is there already"):
            fetch_model(f"{base}/saved_model.pb", tmp_path)
        assert (tmp_path / "saved_model.pb.part").exists(), "what was fetched is kept for another --model-version"
        fetch_model(f"{base}/saved_model.pb", tmp_path, version=7)
        does.content, does.etag = b"\x08\x07\x3a\x00", '"onnx"'
        assert fetch_model(f"{base}/net.onnx", tmp_path / "onnx").path == tmp_path / "onnx/1"
    assert (tmp_path / "onnx/1/model.onnx").read_bytes() == b"\x08\x07\x3a\x00"
    assert left(tmp_path) >= {"1/saved_model.pb", "7/saved_model.pb", "saved_model.pb.sha256"}


def test_the_seeds_model_is_known_by_name(tmp_path, certificate, monkeypatch):
    known = catalogue.DOWNLOADS["resnet50-v15-fp32"]
    assert known.url.startswith("https://storage.googleapis.com/intel-optimized-tensorflow/")
    with serving(GRAPH, certificate) as (base, _):
        here = Download(f"{base}/x.pb", known.file_name, inputs=known.inputs, outputs=known.outputs)
        monkeypatch.setattr(fetching, "DOWNLOADS", {"resnet50-v15-fp32": here})
        result = CliRunner().invoke(
            model_command, ["fetch", "resnet50-v15-fp32", "--to", str(tmp_path / "m"), "--json"]
        )
    report = json.loads(result.stdout)
    assert report["path"] == str(tmp_path / "m/resnet50-v15-fp32.pb")
    assert report["next"].endswith("--model_version 1 --inputs input --outputs predict")
    assert (report["sha256"], report["compared_with"], report["from"]) == (DIGEST, None, "localhost")


def test_a_model_that_is_made_here_has_neither_a_digest_nor_another_version(tmp_path):
    for arguments in ({"sha256": DIGEST}, {"version": 2}):
        with pytest.raises(InputError, match="efficientnet-lite0"):
            fetch_model("efficientnet-lite0", tmp_path / "m", **arguments)
    assert left(tmp_path) == set()


def test_a_path_is_copied_into_its_place(tmp_path):
    source = tmp_path / "source.pb"
    source.write_bytes(GRAPH)
    assert fetch_model(str(source), tmp_path / "m", sha256=DIGEST).path == tmp_path / "m/source.pb"
    assert source.read_bytes() == GRAPH
    with pytest.raises(InputError, match="more than 10 bytes"):
        fetch_model(str(source), tmp_path / "n", max_bytes=10)
    assert not (tmp_path / "n").exists() or left(tmp_path / "n") == set()


def test_a_path_that_is_no_model_is_explained(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a name.pb").write_bytes(GRAPH)
    for source, says in (("pipe", "neither a file"), ("a name.pb", "no usual name"), ("none", "no path")):
        with pytest.raises(InputError, match=says):
            fetch_model(str(tmp_path / source), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_directory_is_copied_as_a_version(tmp_path):
    from sealserve.models.writing import write_saved_model

    write_saved_model(tmp_path / "m", 5, saved_model())
    assert fetch_model(str(tmp_path / "m"), tmp_path / "a").path == tmp_path / "a/5"
    assert fetch_model(str(tmp_path / "m/5"), tmp_path / "b", version=2).path == tmp_path / "b/2"
    assert read_saved_model(tmp_path / "b/2").signatures
    for target, says in ((tmp_path / "a", "there already"), (tmp_path / "m/5/x", "is inside")):
        with pytest.raises(InputError, match=says):
            fetch_model(str(tmp_path / "m"), target)
    with pytest.raises(ModelError, match="no version 9"):
        fetch_model(str(tmp_path / "m"), tmp_path / "c", version=9)
    with pytest.raises(InputError, match="--sha256"):
        fetch_model(str(tmp_path / "m"), tmp_path / "c", sha256=DIGEST)


def test_the_command_says_what_came_and_what_comes_next_and_no_secret(tmp_path, certificate):
    with serving(GRAPH, certificate) as (base, _):
        done = CliRunner().invoke(model_command, ["fetch", f"{base}/a.pb?token=secret", "--to", str(tmp_path)])
    assert done.exit_code == 0
    assert f"SHA-256: {DIGEST}" in done.stdout
    assert "next: sealserve model convert --import_path" in done.stdout
    assert "first download is trusted" in done.stderr
    assert "secret" not in done.output


def test_a_record_that_is_not_legible_is_not_passed_over(tmp_path, certificate):
    (tmp_path / "a.pb.sha256").write_text("nonsense")
    with serving(GRAPH, certificate) as (base, does), pytest.raises(InputError, match="does not hold a SHA-256"):
        fetch_model(f"{base}/a.pb", tmp_path)
    assert does.seen == []


@pytest.mark.parametrize(
    "arguments",
    [["x", "--max-size", "2X"], ["x", "--sha256", "ab"], ["x", "--model-version", "0"], ["x", "--timeout", "0"]],
)
def test_a_wrong_command_line_is_refused(arguments):
    assert CliRunner().invoke(model_command, ["fetch", *arguments]).exit_code == 2
