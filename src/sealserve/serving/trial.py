"""Loading a model to see which engine runs it, and looking into one that is sealed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sealserve.errors import ModelError, SealserveError
from sealserve.models.conversion import convert_frozen_graph
from sealserve.models.description import ModelDescription, describe_version
from sealserve.models.kinds import Kind
from sealserve.models.suitability import Verdict
from sealserve.models.version_files import VersionFiles
from sealserve.secret import Secret
from sealserve.serving.engines import ENGINES, create_engine
from sealserve.serving.model_files import ModelFiles, directory_files
from sealserve.serving.versions.sources import SealedSource


def try_engines(found: ModelDescription) -> ModelDescription:
    """Load a model that was described with each engine that is installed.

    :raises ModelError: a frozen graph does not say what its input and output are.
    """
    with _loadable(found) as files:
        return _tried(found, files)


def inspect_sealed_model(
    directory: Path, key: Secret, version: int | None = None, *, load: bool = False
) -> ModelDescription:
    """Describe a sealed model; its plaintext is in memory files only, and gone when this returns.

    :param key: the wrap key. :param version: which to describe; the highest if None.
    :param load: load it with each engine that is installed.
    :raises SealError: it is not what was sealed, or under another key.
    """
    source = SealedSource(directory, key)
    versions = source.versions()
    chosen = max(versions, default=None) if version is None else version
    if chosen is None or chosen not in versions:
        raise ModelError(
            f"the sealed model in {directory} has no version" + ("" if chosen is None else f" {chosen}"),
            hint=f"It has: {', '.join(map(str, versions)) or 'none'}.",
        )
    with source.open(chosen) as files:
        sizes = {name: os.fstat(file.fileno()).st_size for name, file in files.items()}
        described = describe_version(VersionFiles(sizes, lambda name: _content(files, name)), f"{directory} (sealed)")
        found = replace(described, version=chosen, versions=tuple(versions))
        return _tried(found, files) if load else found


def _content(files: ModelFiles, name: str) -> bytes:
    files[name].seek(0)
    return files[name].read()


@contextlib.contextmanager
def _loadable(found: ModelDescription) -> Iterator[ModelFiles]:
    """The files as engines want them: a frozen graph becomes a SavedModel first."""
    path = Path(found.path)
    with contextlib.ExitStack() as stack:
        if found.kind is Kind.FROZEN_GRAPH:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sealserve-")))
            yield stack.enter_context(directory_files(convert_frozen_graph(path, place).path))
        elif path.is_dir():
            yield stack.enter_context(directory_files(path))
        else:
            yield {"model.onnx": stack.enter_context(path.open("rb"))}


def _tried(found: ModelDescription, files: ModelFiles) -> ModelDescription:
    # TensorFlow comes first: the engine openvino lets go of memory files as soon as it has read them.
    tried = {engine: _try(engine, files) for engine in reversed(ENGINES)}
    return replace(found, engines=tuple(tried[engine] for engine in ENGINES))


def _try(engine: str, files: ModelFiles) -> Verdict:
    if importlib.util.find_spec(engine) is None:
        return Verdict(engine, runs=None, reason=f"the package {engine} is not installed")
    begin = time.monotonic()
    try:
        model = create_engine(engine).load(files)
    except SealserveError as error:
        return Verdict(engine, runs=False, reason=error.message, tried=True)
    signatures = ", ".join(model.signatures)
    model.close()
    return Verdict(engine, runs=True, reason=f"loaded in {time.monotonic() - begin:.1f} s ({signatures})", tried=True)
