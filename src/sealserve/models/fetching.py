"""Getting a model: by its name, from an address, or from a path on this machine.

What a download brought is written down beside it, as ``NAME.sha256`` in the form of ``sha256sum``. Where nobody has
published a digest, the first download is trusted; every later one must bring the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sealserve.errors import InputError, ModelError, TrustError
from sealserve.files import explain_os_error, make_directory, read_file, write_atomically
from sealserve.models.catalogue import DOWNLOADS, WRITTEN, Download, model_names
from sealserve.models.download import Progress, Terms, check_address, download, shown
from sealserve.models.kinds import HEAD_BYTES, Kind, file_kind
from sealserve.models.part_file import PartFile
from sealserve.models.placing import place_archive, place_directory, place_file, require_free
from sealserve.models.saved_model import SAVED_MODEL_FILE, find_versions
from sealserve.models.version_files import files_on_disk
from sealserve.sealing.model import is_sealed

DEFAULT_MAX_BYTES = 2 << 30

_CHUNK = 1 << 20
_DIRECTORY_MODE = 0o755
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", re.ASCII)
_DIGEST = re.compile(r"([0-9a-f]{64})  ", re.ASCII)


class DigestMismatchError(TrustError):
    """A file is not the one that it should be: its SHA-256 is another."""


@dataclass(frozen=True)
class Fetched:
    """A model that is in its place.

    :ivar kind: of the model. :ivar path: the directory of its version, or the file of a frozen graph.
    :ivar sha256: of what was fetched, in hexadecimal digits; None for what was made here or copied as a directory.
    :ivar trusted: what the digest was compared with: ``given``, ``recorded`` (at an earlier time), or None: with
        nothing.
    :ivar origin: the host that sent it, if one did.
    :ivar following: the command that comes next.
    """

    kind: Kind
    path: Path
    size: int
    sha256: str | None
    trusted: str | None
    origin: str | None
    following: str


@dataclass(frozen=True)
class _Wanted:
    base: Path
    name: str
    version: int | None
    given: str | None
    max_bytes: int

    @property
    def record(self) -> Path:
        return self.base / f"{self.name}.sha256"


def fetch_model(
    source: str,
    target: Path | None = None,
    *,
    sha256: str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    version: int | None = None,
    timeout: float = 60.0,
    progress: Progress = lambda _done, _total: None,
) -> Fetched:
    """Bring a model into ``target``, a directory that is made if it is not there.

    :param source: a name that is known, an address (https://…), or a path.
    :param target: a directory named like the source if None.
    :param sha256: what the fetched file must be, 64 hexadecimal digits.
    :param max_bytes: of the fetched file, and of what an archive holds.
    :param version: the number of the version; an archive's own, or 1, if None.
    :raises TrustError: it is not what it should be (``DigestMismatchError``), or see
        :func:`~sealserve.models.download.download`.
    :raises ModelError: it is no model. :raises InputError: the source is none, or the place is taken.
    :raises UnavailableError: the server cannot be reached. :raises MachineError: the disk is full, or a package with
        weights is missing.
    """
    given = sha256.lower() if sha256 else None
    if source in WRITTEN:
        _refuse_digest(given, source)
        if version not in {None, 1}:
            raise InputError(f"{source} has version 1 only", hint="Leave --model-version out.")
        return _written(source, target or Path(source))
    if source in DOWNLOADS:
        known = DOWNLOADS[source]
        wanted = _Wanted(target or Path(source), known.file_name, version, given or known.sha256, max_bytes)
        return _from_server(known.url, wanted, timeout, progress, known)
    if "://" in source:
        name = _file_name(source)
        return _from_server(
            source, _Wanted(target or Path(_stem(name)), name, version, given, max_bytes), timeout, progress
        )
    path = Path(source)
    if not path.exists():
        raise InputError(
            f"{source} is no model that is known by name, no address and no path",
            hint=f"Known: {', '.join(model_names())}. An address begins with https://.",
        )
    target = target or Path(_stem(path.name))
    if path.is_dir():
        _refuse_digest(given, source)
        return _from_directory(path, target, version)
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a directory", hint="Give a model's file or directory.")
    if not _NAME.fullmatch(path.name):
        raise InputError(f"{path.name!r} is no usual name of a file", hint="Rename it: letters, digits, _ . + -")
    return _from_file(path, _Wanted(target, path.name, version, given, max_bytes), progress)


def _written(name: str, target: Path) -> Fetched:
    path = WRITTEN[name](target) / "1"
    return _fetched(Kind.SAVED_MODEL, path, target)


def _from_server(
    url: str, wanted: _Wanted, timeout: float, progress: Progress, known: Download | None = None
) -> Fetched:
    recorded = _recorded(wanted)
    if (there := _already_there(wanted, recorded, known)) is not None:
        return there
    if wanted.version is not None:
        require_free(wanted.base / str(wanted.version))
    terms = Terms(wanted.max_bytes, digest_known=(wanted.given or recorded) is not None, timeout=timeout)
    with _part(wanted) as part:
        origin = download(url, part, terms, progress)
        return _take(part, wanted, recorded, origin, known)


def _from_file(path: Path, wanted: _Wanted, progress: Progress) -> Fetched:
    recorded = _recorded(wanted)
    if (there := _already_there(wanted, recorded, None)) is not None:
        return there
    try:
        with path.open("rb") as file, _part(wanted, keep=False) as part:
            total = path.stat().st_size
            part.begin("", None)
            while piece := file.read(_CHUNK):
                if part.size + len(piece) > wanted.max_bytes:
                    raise InputError(
                        f"{path} has more than {wanted.max_bytes:,} bytes", hint="Allow more with --max-size."
                    )
                part.append(piece)
                progress(part.size, total)
            return _take(part, wanted, recorded, None, None)
    except OSError as error:
        raise explain_os_error(error, path, "read") from error


def _from_directory(path: Path, target: Path, version: int | None) -> Fetched:
    if is_sealed(path):
        raise ModelError(f"{path} is a sealed model", hint="Copy it as a whole; `sealserve unseal` opens it.")
    if (path / SAVED_MODEL_FILE).exists():
        number, source = version or 1, path
    else:
        versions = find_versions(path)
        number = max(versions) if version is None else version
        if number not in versions:
            raise ModelError(f"{path} has no version {number}", hint=f"It has: {', '.join(map(str, versions))}.")
        source = versions[number]
    with _made(target):
        return _fetched(Kind.SAVED_MODEL, place_directory(source, target, number), target)


def _take(part: PartFile, wanted: _Wanted, recorded: str | None, origin: str | None, known: Download | None) -> Fetched:
    """Compare what is complete with what it should be, put it into its place, and write its digest down."""
    digest, size = part.sha256(), part.size
    expected = wanted.given or recorded
    if expected is not None and digest != expected:
        part.remove()
        raise DigestMismatchError(
            f"{wanted.name} is not the file that it should be: its SHA-256 is {digest}, and not {expected}",
            hint="What was fetched is removed. "
            + (
                "Check the digest that you gave, and where it is from."
                if wanted.given
                else f"It was another before: {wanted.record} has the digest. If the change is meant, remove that file."
            ),
        )
    try:
        kind, path = _place(part, wanted)
    except ModelError:
        part.remove()  # it would be no model the next time either
        raise
    part.remove()
    write_atomically(wanted.record, f"{digest}  {wanted.name}\n")
    trusted = "given" if wanted.given else "recorded" if recorded else None
    return _fetched(kind, path, wanted.base, size=size, sha256=digest, trusted=trusted, origin=origin, known=known)


def _place(part: PartFile, wanted: _Wanted) -> tuple[Kind, Path]:
    kind = file_kind(part.head(HEAD_BYTES), wanted.name)
    if kind is Kind.ENCRYPTED:
        raise ModelError(f"{wanted.name} is an encrypted file", hint="Fetch models before they are sealed.")
    if kind is Kind.ARCHIVE:
        return place_archive(part.path, wanted.name, wanted.base, wanted.version, max_bytes=wanted.max_bytes)
    return kind, place_file(part.path, wanted.name, kind, wanted.base, wanted.version)


def _already_there(wanted: _Wanted, recorded: str | None, known: Download | None) -> Fetched | None:
    """The frozen graph that an earlier fetch left, if it is still the same."""
    path = wanted.base / wanted.name
    expected = wanted.given or recorded
    if not path.is_file():
        return None
    if expected is None:
        raise InputError(
            f"{path} is there already",
            hint="Remove it first, say with --sha256 what it is, or choose another directory.",
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    if digest != expected:
        raise DigestMismatchError(
            f"{path} is there already, and is not the file that it should be: its SHA-256 is not {expected}",
            hint="Remove it, and fetch it again.",
        )
    trusted = "given" if wanted.given else "recorded"
    size = path.stat().st_size
    return _fetched(Kind.FROZEN_GRAPH, path, wanted.base, size=size, sha256=expected, trusted=trusted, known=known)


def _recorded(wanted: _Wanted) -> str | None:
    """What an earlier fetch wrote down. :raises InputError: it is not legible: then nothing is trusted."""
    if not wanted.record.exists():
        return None
    found = _DIGEST.match(read_file(wanted.record, limit=1000).decode(errors="replace"))
    if found is None:
        raise InputError(f"{wanted.record} does not hold a SHA-256", hint="Remove it to trust the next download.")
    if wanted.given and wanted.given != found[1]:
        raise DigestMismatchError(
            f"the digest that was given is not the one that an earlier fetch wrote into {wanted.record}",
            hint="Remove that file if the file at the address has changed, and is meant to.",
        )
    return found[1]


def _fetched(
    kind: Kind,
    path: Path,
    base: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    trusted: str | None = None,
    origin: str | None = None,
    known: Download | None = None,
) -> Fetched:
    if size is None:
        size = sum(files_on_disk(path).sizes.values())
    if kind is Kind.FROZEN_GRAPH:
        command = ["sealserve", "model", "convert", "--import_path", str(path), "--export_dir", str(base)]
        command += ["--model_version", "1"]
        if known:
            command += ["--inputs", known.inputs, "--outputs", known.outputs]
    else:
        command = ["sealserve", "model", "inspect", str(base)]
    return Fetched(kind, path, size, sha256, trusted, origin, shlex.join(command))


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory is there while the block runs; if it was made for it and stays empty, it is removed again."""
    there = directory.exists()
    make_directory(directory, mode=_DIRECTORY_MODE)
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


@contextlib.contextmanager
def _part(wanted: _Wanted, *, keep: bool = True) -> Iterator[PartFile]:
    """:param keep: what is there if it does not come to an end, to go on with it."""
    with _made(wanted.base), PartFile(wanted.base / f"{wanted.name}.part") as part:
        try:
            yield part
        except BaseException:
            if not keep or not part.size:
                part.remove()
            raise


def _refuse_digest(given: str | None, source: str) -> None:
    if given:
        raise InputError(f"{source} is no single file that --sha256 could be about", hint="Leave --sha256 out.")


def _file_name(url: str) -> str:
    # Whether plain HTTP will do is known when the digests are.
    parts = check_address(url, Terms(DEFAULT_MAX_BYTES, digest_known=True))
    name = unquote(parts.path.rpartition("/")[2])
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{shown(url)} does not end with the usual name of a file", hint="Download it, and give its path."
        )
    return name


def _stem(name: str) -> str:
    for ending in (".tar.gz", ".tgz", ".tar", ".zip", ".pb", ".onnx"):
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return f"{name}-model"
