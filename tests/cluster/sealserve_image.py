"""sealserve's own images, as its rendered Dockerfiles make them, from this machine's Python and packages.

What differs from an image that Docker builds: the interpreter is the one that runs the tests, and the base has nothing
but what Python, the packages and the rendered pods need. Everything is in three layers: the base, the packages of the
lock (both in the cache), and sealserve's code, which is made from this checkout each time that it has changed.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

from cluster.oci import Entry, Image, Layer, cached_layer, tree
from sealserve.deploy.images.layout import ImageLayout
from sealserve.deploy.images.wheel import build_wheel

Role = Literal["simulated", "broker"]

_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_PYTHON = f"/usr/bin/{_VERSION}"
_STANDARD_LIBRARY = f"/usr/lib/{_VERSION}"
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_PACKAGES = ImageLayout().packages
_STATE = "/state"
_USER = 10001
_LOCKS: dict[Role, str] = {"simulated": "openvino", "broker": "broker"}
# What the rendered pods run beside sealserve, and what one wants for a look inside.
_TOOLS = ("/usr/bin/install", "/bin/sh", "/bin/cat", "/bin/ls", "/bin/sleep")
_UNUSED = {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "site-packages", "dist-packages"}


def sealserve_image(role: Role) -> Image:
    """The image of replicas of ``tee: simulated``, or of the key broker, with this checkout's code."""
    environment = ["LC_ALL=C.UTF-8", f"PYTHONPATH={_PACKAGES}", "PYTHONDONTWRITEBYTECODE=1"]
    return Image(
        f"sealserve-{role}",
        [_base(), _packages(role), _code()],
        [_PYTHON, "-P", "-s", "-m", "sealserve"],
        ["replica", "--help"] if role == "simulated" else ["broker", "run", "--file", f"{_STATE}/broker.yaml"],
        user=f"{_USER}:{_USER}",
        environment=environment,
        directory=_STATE,
    )


def _files() -> Path:
    with resources.as_file(resources.files("sealserve.deploy.images") / "files" / "prune.sh") as path:
        return path


def _base() -> Layer:
    return cached_layer(f"base 1 {sys.version} {sys.base_prefix}", _base_entries())


def _base_entries() -> Iterator[tuple[str, Entry]]:
    interpreter = Path(sys.executable).resolve()
    modules = Path(sysconfig.get_path("stdlib"))
    extensions = list(modules.rglob("*.so"))
    # Everything that packages may link to is here, so that the layers of packages are just that.
    packages = [path for name in ("openvino", "numpy", "grpcio") for path in _extensions_of(name)]
    yield _PYTHON, Entry(interpreter, mode=0o755)
    for tool in _TOOLS:
        yield tool.replace("/bin/", "/usr/bin/") if tool.startswith("/bin/") else tool, Entry(Path(tool), mode=0o755)
    yield "bin", Entry(link="usr/bin")
    yield "lib64", Entry(link="usr/lib64")
    yield "lib", Entry(link="usr/lib")
    found = _shared_libraries([interpreter, *(Path(tool) for tool in _TOOLS), *extensions, *packages])
    for library in found:
        yield f"{_LIBRARIES}/{library.name}", Entry(library, mode=0o755)
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    yield f"/usr/lib64/{loader.name}", Entry(loader.resolve(), mode=0o755)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / _VERSION
        unused = shutil.ignore_patterns(*_UNUSED, "__pycache__", "config-*")
        shutil.copytree(modules, copy, ignore=unused, symlinks=False)
        _prune(copy)
        yield from tree(copy, _STANDARD_LIBRARY)
    yield from tree(Path("/usr/lib/locale/C.utf8"), "/usr/lib/locale/C.utf8")
    users = f"root:x:0:0:root:/root:/bin/sh\nsealserve:x:{_USER}:{_USER}:sealserve:{_STATE}:/bin/sh\n"
    yield "etc/passwd", Entry(users.encode())
    yield "etc/group", Entry(f"root:x:0:\nsealserve:x:{_USER}:\n".encode())
    yield "etc/ssl/certs/ca-certificates.crt", Entry(Path("/etc/ssl/certs/ca-certificates.crt").resolve())
    yield _STATE, Entry()
    yield "tmp", Entry(mode=0o1777)


def _packages(role: Role) -> Layer:
    lock = (resources.files("sealserve.deploy.images") / "locks" / f"{_LOCKS[role]}.lock").read_text()
    names = sorted(set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, flags=re.MULTILINE)))
    versions = [f"{name}=={metadata.version(name)}" for name in names if _is_installed(name)]
    prune = sha256(_files().read_bytes()).hexdigest()[:8]
    return cached_layer(f"packages 1 {role} {prune} {sys.version} {versions}", _package_entries(role, names))


def _package_entries(role: Role, names: list[str]) -> Iterator[tuple[str, Entry]]:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "packages"
        for name in names:
            for file in (metadata.distribution(name).files or ()) if _is_installed(name) else ():
                source = Path(str(file.locate()))
                # Commands lie beside the packages (..), and are none that an image has.
                if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                    (directory / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, directory / file)
        if role == "simulated":
            _prune(directory)
        else:
            _compile(directory)
        yield from tree(directory, _PACKAGES)


def _code() -> Layer:
    wheel = build_wheel()
    return cached_layer(f"code 2 {sys.version} {sha256(wheel).hexdigest()}", _code_entries(wheel))


def _code_entries(wheel: bytes) -> Iterator[tuple[str, Entry]]:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "packages"
        zipfile.ZipFile(io.BytesIO(wheel)).extractall(directory)
        _compile(directory)
        yield from tree(directory, _PACKAGES)


def _prune(directory: Path) -> None:
    """As a rendered Dockerfile does: bytecode in the place of source, and nothing that a replica never opens."""
    subprocess.run(["sh", _files(), sys.executable, directory], check=True, capture_output=True)


def _compile(directory: Path) -> None:
    mode = ["--invalidation-mode", "unchecked-hash"]
    paths = ["-s", str(directory), "-p", _PACKAGES]
    command = [sys.executable, "-E", "-m", "compileall", "-q", "-j", "2", *mode, *paths, str(directory)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "0"}, stdout=subprocess.DEVNULL)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _extensions_of(name: str) -> list[Path]:
    files = metadata.distribution(name).files or ()
    return [Path(str(file.locate())) for file in files if re.search(r"\.so(\.\d+)*$", file.name)]


def _shared_libraries(programs: list[Path]) -> list[Path]:
    """What the system's linker finds for them outside of the packages themselves: by the name that it is asked for."""
    command = ["ldd", *map(str, programs)]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = {Path(path).name: Path(path) for path in re.findall(r"=> (/\S+) \(", text)}
    return [path for path in found.values() if "site-packages" not in path.parts]
