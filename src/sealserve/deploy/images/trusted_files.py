"""The smallest sensible set of trusted files: what a replica loads, found by looking at what is installed.

Whole directories of the distribution's libraries would do, and would make the measurement depend on every package of
the image. So the shared libraries are followed from the programs and Python's extension modules: what nothing names is
not trusted, and the enclave cannot open it. Libraries that a program opens by a name of its own (``dlopen``) are not
found this way; :data:`ALSO_LOADED` lists those that matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sealserve.deploy.images.elf import read_shared_libraries
from sealserve.deploy.images.layout import ImageLayout
from sealserve.errors import InputError

ALSO_LOADED = ("libgcc_s.so.1",)
"""``pthread_cancel`` and C++ exceptions open it by name."""

_MOST_LINKS = 40  # as many as Linux follows
_NOT_SERVED = frozenset(
    {"dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtledemo", "venv"}
)
"""Parts of Python's standard library that no server imports, and directories of other people's packages in it."""
_METADATA = ("METADATA", "entry_points.txt")


def find_trusted_files(root: Path, layout: ImageLayout, *, tensorflow_serving: bool, batching: bool) -> list[str]:
    """URIs for ``sgx.trusted_files``, in a fixed order; directories end with ``/``.

    :param root: where the image's file system lies: ``/`` inside a container, or an unpacked image.
    :param tensorflow_serving: for ``tensorflow_model_server``, and otherwise for sealserve's own server.
    :param batching: whether there is a file of batching parameters.
    :raises InputError: the program, or a directory of it, is not there.
    """
    found = [f"file:{layout.runtime}/", f"file:{layout.broker_ca}"]
    if tensorflow_serving:
        programs = [layout.model_server, layout.secret_provisioning]
        found += [f"file:{layout.model_server}", f"file:{layout.secret_provisioning}"]
        found += [f"file:{layout.batching}"] if batching else []
        modules: list[str] = []
    else:
        programs = [layout.python]
        found += [f"file:{layout.python}", *_packages(root, layout), *_standard_library(root, layout)]
        modules = [layout.standard_library, layout.packages]
    for path in [layout.runtime, layout.broker_ca, *programs, *modules]:
        if not _inside(root, path).exists():
            raise InputError(
                f"there is no {path} in the image at {root}",
                hint="The image is not complete, or its layout is another one.",
            )
    files = [_inside(root, path) for path in programs]
    for directory in modules:
        files += sorted(path for path in _inside(root, directory).rglob("*.so*") if path.is_file())
    whole = [f"{layout.runtime}/", *(f"{path}/" for path in modules)]
    libraries = (path for path in _libraries(root, layout, files) if not path.startswith(tuple(whole)))
    return sorted({*found, *(f"file:{path}" for path in libraries)})


def _standard_library(root: Path, layout: ImageLayout) -> Iterator[str]:
    directory = _inside(root, layout.standard_library)
    if not directory.is_dir():
        return
    for entry in sorted(directory.iterdir()):
        if entry.name not in _NOT_SERVED and not entry.name.startswith("config-"):  # for compiling extensions
            yield _uri(layout.standard_library, entry)


def _packages(root: Path, layout: ImageLayout) -> Iterator[str]:
    """All but scripts, licences and lists of files; ``importlib.metadata`` goes on working."""
    directory = _inside(root, layout.packages)
    for entry in sorted(directory.iterdir()) if directory.is_dir() else ():
        if entry.suffix == ".dist-info":
            path = f"{layout.packages}/{entry.name}"
            yield from (_uri(path, entry / name) for name in _METADATA if (entry / name).is_file())
        elif entry.name != "bin":
            yield _uri(layout.packages, entry)


def _uri(directory: str, entry: Path) -> str:
    return f"file:{directory}/{entry.name}{'/' if entry.is_dir() else ''}"


def _libraries(root: Path, layout: ImageLayout, files: list[Path]) -> Iterator[str]:
    """Paths inside the image of the libraries that ``files`` need, and that those need."""
    runtime = {path.name for path in _inside(root, layout.runtime).iterdir()}
    seen: set[str] = set()
    waiting = list(files)
    wanted = [f"{layout.libraries}/{name}" for name in ALSO_LOADED]
    while waiting or wanted:
        for path in wanted:
            file = _inside(root, path)
            # A plugin that is never loaded may name what is not installed.
            if path not in seen and _target(root, file).is_file():
                seen.add(path)
                waiting.append(file)
                yield path
        wanted = []
        if waiting:
            file = waiting.pop()
            needs = read_shared_libraries(_target(root, file))
            if needs is not None:
                # Whichever of them the loader finds first: that depends on how the others were found.
                places = [*(_searched(root, file, directory) for directory in needs.search), layout.libraries]
                wanted = [f"{place}/{name}" for name in needs.needed if name not in runtime for place in places]


def _searched(root: Path, file: Path, directory: str) -> str:
    origin = f"/{file.parent.relative_to(root)}"
    return os.path.normpath(directory.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))


def _target(root: Path, file: Path) -> Path:
    """What a link in the image leads to; absolute links start at the image's root."""
    for _ in range(_MOST_LINKS):
        if not file.is_symlink():
            break
        link = file.readlink()
        file = _inside(root, str(link)) if link.is_absolute() else file.parent / link
    return file


def _inside(root: Path, path: str) -> Path:
    return root / PurePosixPath(path).relative_to("/") if path.startswith("/") else root / path
