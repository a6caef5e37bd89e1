from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.deploy.images.elf import read_shared_libraries
from sealserve.deploy.images.layout import ImageLayout
from sealserve.deploy.images.trusted_files import find_trusted_files
from sealserve.errors import InputError

LAYOUT = ImageLayout()
OWN = {"tensorflow_serving": False, "batching": False}


def _elf(path: Path, *needed: str, search: str = "") -> None:
    """An ELF file that the linker of this machine makes, if there is one."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    path.parent.mkdir(parents=True, exist_ok=True)
    stubs = path.parent / f".{path.name}.stubs"
    stubs.mkdir()
    for name in needed:
        subprocess.run(
            [compiler, "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", stubs / f"lib{name}.so", "-x", "c", "-"],
            input=b"",
            check=True,
        )
    libraries = [f"-l{name}" for name in needed]
    subprocess.run(
        [compiler, "-shared", "-nostdlib", "-Wl,--no-as-needed", f"-L{stubs}", *libraries]
        + ([f"-Wl,-rpath,{search}"] if search else [])
        + ["-o", path, "-x", "c", "-"],
        input=b"",
        check=True,
    )
    shutil.rmtree(stubs)


def _file(root: Path, path: str, content: bytes = b"") -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _image(root: Path) -> None:
    """As much of an image as our own server has."""
    _file(root, f"{LAYOUT.runtime}/libc.so.6")
    _file(root, LAYOUT.broker_ca)
    _elf(root / LAYOUT.python.lstrip("/"), "libc.so.6", "libz.so.1")
    _file(root, f"{LAYOUT.standard_library}/json/__init__.py")
    _file(root, f"{LAYOUT.standard_library}/os.py")
    _file(root, f"{LAYOUT.standard_library}/test/test_os.py")
    _file(root, f"{LAYOUT.standard_library}/site-packages/other.py")
    _elf(root / f"{LAYOUT.packages}/engine/core.so".lstrip("/"), "libown.so.1", "libtbb.so.2", search="$ORIGIN/libs")
    _file(root, f"{LAYOUT.packages}/engine/libs/libown.so.1")
    _file(root, f"{LAYOUT.packages}/single.pyc")
    _file(root, f"{LAYOUT.packages}/bin/tool")
    for name in ("METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE"):
        _file(root, f"{LAYOUT.packages}/engine-1.dist-info/{name}")
    _file(root, f"{LAYOUT.libraries}/libz.so.1")
    _elf(root / f"{LAYOUT.libraries}/libtbb.so.2".lstrip("/"), "libdl.so.2", "libmissing.so.9")
    _file(root, f"{LAYOUT.libraries}/libdl.so.2.0")
    (root / f"{LAYOUT.libraries}/libdl.so.2".lstrip("/")).symlink_to(f"{LAYOUT.libraries}/libdl.so.2.0")
    _file(root, f"{LAYOUT.libraries}/libunused.so.7")
    _file(root, f"{LAYOUT.libraries}/libgcc_s.so.1")


def _found(root: Path, **options: bool) -> list[str]:
    return find_trusted_files(root, LAYOUT, **{**OWN, **options})


def test_only_what_is_loaded_is_trusted(tmp_path: Path) -> None:
    _image(tmp_path)
    found = _found(tmp_path)
    assert found == sorted(
        [
            f"file:{LAYOUT.runtime}/",
            f"file:{LAYOUT.broker_ca}",
            f"file:{LAYOUT.python}",
            f"file:{LAYOUT.packages}/engine/",
            f"file:{LAYOUT.packages}/engine-1.dist-info/METADATA",
            f"file:{LAYOUT.packages}/engine-1.dist-info/entry_points.txt",
            f"file:{LAYOUT.packages}/single.pyc",
            f"file:{LAYOUT.standard_library}/json/",
            f"file:{LAYOUT.standard_library}/os.py",
            f"file:{LAYOUT.libraries}/libz.so.1",
            f"file:{LAYOUT.libraries}/libtbb.so.2",
            f"file:{LAYOUT.libraries}/libdl.so.2",
            f"file:{LAYOUT.libraries}/libgcc_s.so.1",
        ]
    )


def test_the_unmodified_server_needs_no_python(tmp_path: Path) -> None:
    _file(tmp_path, f"{LAYOUT.runtime}/libc.so.6")
    _file(tmp_path, LAYOUT.broker_ca)
    _elf(tmp_path / LAYOUT.model_server.lstrip("/"), "libstdc++.so.6")
    _elf(tmp_path / LAYOUT.secret_provisioning.lstrip("/"), "libc.so.6", "libmbedtls.so.21")
    _file(tmp_path, f"{LAYOUT.libraries}/libstdc++.so.6")
    _file(tmp_path, f"{LAYOUT.libraries}/libmbedtls.so.21")
    found = _found(tmp_path, tensorflow_serving=True, batching=True)
    assert found == sorted(
        [
            f"file:{LAYOUT.runtime}/",
            f"file:{LAYOUT.broker_ca}",
            f"file:{LAYOUT.batching}",
            f"file:{LAYOUT.model_server}",
            f"file:{LAYOUT.secret_provisioning}",
            f"file:{LAYOUT.libraries}/libstdc++.so.6",
            f"file:{LAYOUT.libraries}/libmbedtls.so.21",
        ]
    )


def test_an_image_without_the_program_is_refused(tmp_path: Path) -> None:
    _file(tmp_path, f"{LAYOUT.runtime}/libc.so.6")
    _file(tmp_path, LAYOUT.broker_ca)
    with pytest.raises(InputError, match=f"there is no {LAYOUT.python}"):
        _found(tmp_path)


def test_the_libraries_of_this_interpreter_are_those_that_the_loader_names() -> None:
    module = next(Path(sysconfig.get_config_var("DESTSHARED")).glob("_ssl*.so"), None)
    readelf = shutil.which("readelf")
    if module is None or readelf is None:
        pytest.skip("there is no readelf, or no _ssl, here")
    told = subprocess.run([readelf, "-dW", module], capture_output=True, text=True, check=True).stdout
    needed = {line.partition("[")[2].rstrip("]") for line in told.splitlines() if "(NEEDED)" in line}
    libraries = read_shared_libraries(module)
    assert libraries is not None
    assert set(libraries.needed) == needed


@settings(max_examples=50)
@given(data=st.binary(max_size=300))
def test_no_bytes_make_the_reader_of_libraries_fail(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.so"
    for content in (data, b"\x7fELF\x02\x01\x01" + data):
        path.write_bytes(content)
        read_shared_libraries(path)


@settings(max_examples=50)
@given(at=st.integers(0, 200), bit=st.integers(0, 7))
def test_no_flipped_bit_makes_the_reader_of_libraries_fail(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(Path(sys.executable).resolve().read_bytes()[: 1 << 16])
    data[at] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    read_shared_libraries(path)


SERVE_ONCE = """
import sys
from pathlib import Path
import numpy
from sealserve.enclave import life, rest_attestation
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.serving.engines import create_engine
from sealserve.serving.model_files import directory_files
from sealserve.serving.rest import server
from sealserve.wire.tensorflow_pb2 import DataType

graph = GraphBuilder()
x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
graph.node("Mul", "y", [x, x], T=type_attribute(DataType.DT_FLOAT))
ends = {name: TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy"}
message = graph.saved_model({"x": ends["x"]}, {"y": ends["y"]}, signature="serving_default")
write_saved_model(Path(sys.argv[1]), 1, message)
with directory_files(Path(sys.argv[1], "1")) as files:
    model = create_engine("openvino", threads=1).load(files)
assert model.predict("serving_default", {"x": numpy.full(3, 3, numpy.float32)})["y"].tolist() == [9, 9, 9]
print(Path("/proc/self/maps").read_text())
"""


@pytest.mark.slow
def test_every_library_that_a_replica_maps_is_trusted(tmp_path: Path) -> None:
    """Of this machine's Python and packages, where Gramine is not at hand to tell."""
    program = [sys.executable, "-c", SERVE_ONCE, tmp_path / "model"]
    maps = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    mapped = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/") and ".so" in line}
    # Gramine has its own C library, and every library of this machine's in its place.
    runtime = tmp_path / "gramine" / "runtime" / "glibc"
    runtime.mkdir(parents=True)
    c_library = {path for path in mapped if Path(path).name.startswith(("libc.", "libm.", "ld-linux", "libpthread."))}
    c_library |= {path for path in mapped if Path(path).name.startswith(("libdl.", "librt.", "libutil.", "libresolv."))}
    for path in c_library:
        (runtime / Path(path).name).touch()
    layout = ImageLayout(
        python=str(Path(sys.executable).resolve()),
        standard_library=sysconfig.get_path("stdlib"),
        packages=sysconfig.get_path("purelib"),
        libraries="/usr/lib/x86_64-linux-gnu",
        gramine=str(tmp_path / "gramine"),
        broker_ca=__file__,
    )
    found = [uri.removeprefix("file:") for uri in find_trusted_files(Path("/"), layout, **OWN)]
    files = {os.path.realpath(path) for path in found if not path.endswith("/")}
    directories = tuple(path for path in found if path.endswith("/"))
    untrusted = {path for path in mapped - c_library if path not in files and not path.startswith(directories)}
    assert untrusted == set()
