"""What a model holds, for people and for scripts."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from sealserve.errors import ModelError
from sealserve.models.frozen import FrozenModel, parse_frozen_graph
from sealserve.models.kinds import HEAD_BYTES, Kind, file_kind
from sealserve.models.onnx_file import ONNX_FILE, read_onnx_file
from sealserve.models.parsing import parse, read_model_file
from sealserve.models.saved_model import (
    DEFAULT_SIGNATURE,
    SAVED_MODEL_FILE,
    VARIABLES,
    Signature,
    TensorSpec,
    find_versions,
    interpret_saved_model,
    no_saved_model,
)
from sealserve.models.suitability import Verdict, judge_frozen_graph, judge_onnx, judge_saved_model
from sealserve.models.version_files import VersionFiles, files_on_disk
from sealserve.sealing.metadata import FILE_ID
from sealserve.wire.tensorflow_pb2 import GraphDef, SavedModel

_ENGINES = ("openvino", "tensorflow")
_VARIABLES_INDEX = "variables/variables.index"
_WARM_UP = "assets.extra/tf_serving_warmup_requests"
_MOST_LISTED = 50
_LONGEST_NAME = 200
_LABEL = 14

T = TypeVar("T")


@dataclass(frozen=True)
class ModelDescription:
    """One version of a model, and which others there are; or a file that can become one.

    :ivar version: the described one; None where there are no versions.
    :ivar sizes: bytes: ``total``, and what of it is ``graph``, ``variables``, ``assets``, ``warm_up``.
    :ivar operations: how often each occurs, the most frequent first.
    :ivar made_with: the program that wrote it, if it says so.
    """

    path: str
    kind: Kind
    sizes: Mapping[str, int]
    signatures: Mapping[str, Signature]
    operations: Mapping[str, int]
    engines: tuple[Verdict, ...]
    version: int | None = None
    versions: tuple[int, ...] = ()
    made_with: str = ""
    candidates: Mapping[str, tuple[TensorSpec, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.sizes["total"]

    def as_dict(self) -> dict[str, Any]:
        """JSON ready; -1 stands for an unknown dimension, null for an unknown rank."""
        return {
            "path": self.path,
            "kind": self.kind.value,
            "version": self.version,
            "versions": list(self.versions),
            "made_with": self.made_with or None,
            "size": self.size,
            "sizes": dict(self.sizes),
            "signatures": {name: _signature_dict(signature) for name, signature in self.signatures.items()},
            "candidates": {side: [_spec_dict(spec) for spec in found] for side, found in self.candidates.items()},
            "operations": dict(self.operations),
            "engines": {verdict.engine: verdict.as_dict() for verdict in self.engines},
        }

    def as_text(self, width: int | None = None) -> str:
        """Lines for a terminal.

        :param width: of it, in characters; None for a pipe, where lines are as long as they are.
        """
        lines = [self.path]

        def row(label: str, text: str) -> None:
            # Two spaces of the text are kept: they stand before details.
            first = f"  {label}".ljust(_LABEL)
            if width is None:
                lines.append(first + text)
            else:
                lines.extend(
                    textwrap.wrap(
                        text,
                        max(width, 30),
                        initial_indent=first,
                        subsequent_indent=" " * _LABEL,
                        break_long_words=False,
                        break_on_hyphens=False,
                    )
                )

        row("kind", self.kind.value + (f", made with {self.made_with}" if self.made_with else ""))
        if self.version is not None:
            row("version", f"{self.version} (there: {', '.join(map(str, self.versions))})")
        row("size", _sizes_text(self.sizes))
        for name, signature in _first(self.signatures.items()):
            row("signature", f"{_short(name)} ({_short(signature.method_name) or 'no method'})")
            for label, specs in (("  input", signature.inputs), ("  output", signature.outputs)):
                for alias, spec in _first(specs.items()):
                    row(label, f"{_short(alias)}: {_short(str(spec))}")
        for side, found in self.candidates.items():
            for spec in _first(found):
                row(side, f"{_short(spec.name)}: {_short(str(spec))}")
        total = sum(self.operations.values())
        counts = ", ".join(f"{_short(name)} {count}" for name, count in _first(self.operations.items()))
        more = len(self.operations) - _MOST_LISTED
        row("operations", f"{total:,}: {counts}" + (f", and {more} other kinds" if more > 0 else ""))
        for verdict in self.engines:
            row(verdict.engine, str(verdict))
        return "\n".join(lines)


def describe_model(path: Path, version: int | None = None) -> ModelDescription:
    """Describe a model that is not sealed.

    :param path: a model's directory with versions, that of one version, or a file: a frozen graph or an ONNX model.
    :param version: which to describe; the highest if not given.
    :raises ModelError: there is no model, or not in that version. :raises InputError: it cannot be read.
    """
    if path.is_file() or (path.exists() and not path.is_dir()):
        if version is not None:
            raise ModelError(f"{path} is a file, and has no versions", hint="Leave the version out.")
        return _describe_file(path)
    if any((path / name).exists() for name in (SAVED_MODEL_FILE, ONNX_FILE)):
        if version is not None:
            raise ModelError(f"{path} is one version and holds no others", hint="Leave the version out.")
        return describe_version(files_on_disk(path), str(path))
    versions = find_versions(path)
    chosen = max(versions) if version is None else version
    if chosen not in versions:
        raise ModelError(f"{path} has no version {chosen}", hint=f"It has: {', '.join(map(str, versions))}.")
    files = files_on_disk(versions[chosen])
    if SAVED_MODEL_FILE not in files.sizes and ONNX_FILE not in files.sizes:
        raise no_saved_model(versions[chosen])
    return replace(describe_version(files, str(versions[chosen])), version=chosen, versions=tuple(versions))


def describe_version(files: VersionFiles, place: str) -> ModelDescription:
    """Describe one version by its files.

    :param place: where it is, for people.
    :raises ModelError: it is no model. :raises InputError: a file cannot be read.
    """
    if SAVED_MODEL_FILE in files.sizes:
        return _describe_saved_model(files, place)
    if ONNX_FILE in files.sizes:
        return _describe_onnx(files.read(ONNX_FILE), place, _sizes(files.sizes, ONNX_FILE))
    raise ModelError(f"{place} has neither {SAVED_MODEL_FILE} nor {ONNX_FILE}", hint="Give the model's directory.")


def _describe_file(path: Path) -> ModelDescription:
    data = read_model_file(path)
    match kind := file_kind(data[:HEAD_BYTES], str(path)):
        case Kind.FROZEN_GRAPH:
            return _describe_frozen(parse_frozen_graph(data, path))
        case Kind.ONNX:
            return _describe_onnx(data, str(path), {"total": len(data), "graph": len(data)})
        case Kind.SAVED_MODEL:
            raise ModelError(f"{path} is a file of a SavedModel", hint=f"Give its directory: {path.parent}.")
        case _:
            raise ModelError(
                f"{path} is an {kind.value.replace('-', ' ')}",
                hint="`sealserve model fetch` unpacks archives; `sealserve seal inspect` looks into encrypted files.",
            )


def _describe_saved_model(files: VersionFiles, place: str) -> ModelDescription:
    data = files.read(SAVED_MODEL_FILE)
    if data.startswith(FILE_ID):
        raise ModelError(
            f"{SAVED_MODEL_FILE} in {place} is encrypted", hint="Look at it with `sealserve seal inspect`."
        )
    try:
        message = parse(data, SavedModel)
    except DecodeError as error:
        raise ModelError(
            f"{SAVED_MODEL_FILE} in {place} is no SavedModel: it cannot be parsed",
            hint="The file may be cut short, or be another format: export the model as a SavedModel again.",
        ) from error
    meta_graph, signatures = interpret_saved_model(message, place)
    operations = _operations(meta_graph.graph_def)
    complete = _VARIABLES_INDEX in files.sizes or not VARIABLES & operations.keys()
    version = meta_graph.meta_info_def.tensorflow_version
    return ModelDescription(
        path=place,
        kind=Kind.SAVED_MODEL,
        sizes=_sizes(files.sizes, SAVED_MODEL_FILE),
        signatures=signatures,
        operations=_sorted(operations),
        engines=judge_saved_model(meta_graph, signatures, operations)
        if complete
        else tuple(Verdict(engine, runs=False, reason=f"{_VARIABLES_INDEX} is missing") for engine in _ENGINES),
        made_with=f"TensorFlow {_short(version)}" if version else "",
    )


def _describe_frozen(model: FrozenModel) -> ModelDescription:
    operations = _operations(model.graph)
    return ModelDescription(
        path=str(model.path),
        kind=Kind.FROZEN_GRAPH,
        sizes={"total": model.size, "graph": model.size},
        signatures={},
        operations=_sorted(operations),
        engines=judge_frozen_graph(operations),
        candidates={
            "inputs": tuple(model.tensor(name) for name in model.inputs()),
            "outputs": tuple(model.tensor(name) for name in model.outputs()),
        },
    )


def _describe_onnx(data: bytes, place: str, sizes: Mapping[str, int]) -> ModelDescription:
    content = read_onnx_file(data, place)
    return ModelDescription(
        path=place,
        kind=Kind.ONNX,
        sizes=sizes,
        signatures={DEFAULT_SIGNATURE: Signature(content.inputs, content.outputs, "")},
        operations=_sorted(content.operations),
        engines=judge_onnx(),
        made_with=_short(content.producer),
    )


def _operations(graph: GraphDef) -> Counter[str]:
    """How often each operation occurs, in the graph and in its functions; calls of functions do not count."""
    functions = graph.library.function
    found = Counter(node.op for node in graph.node)
    for function in functions:
        found.update(node.op for node in function.node_def)
    for function in functions:
        found.pop(function.signature.name, None)
    return found


def _sizes(files: Mapping[str, int], graph: str) -> dict[str, int]:
    def below(prefix: str) -> int:
        return sum(size for name, size in files.items() if name.startswith(prefix))

    return {
        "total": sum(files.values()),
        "graph": files[graph],
        "variables": below("variables/"),
        "assets": below("assets/"),
        "warm_up": files.get(_WARM_UP, 0),
    }


def _sizes_text(sizes: Mapping[str, int]) -> str:
    parts = [f"{name.replace('_', '-')} {size:,}" for name, size in sizes.items() if size and name != "total"]
    return f"{sizes['total']:,} bytes" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")


def _sorted(operations: Counter[str]) -> dict[str, int]:
    return dict(sorted(operations.items(), key=lambda item: (-item[1], item[0])))


def _first(items: Iterable[T]) -> list[T]:
    return list(items)[:_MOST_LISTED]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"


def _signature_dict(signature: Signature) -> dict[str, Any]:
    return {
        "method_name": signature.method_name,
        "inputs": {name: _spec_dict(spec) for name, spec in signature.inputs.items()},
        "outputs": {name: _spec_dict(spec) for name, spec in signature.outputs.items()},
    }


def _spec_dict(spec: TensorSpec) -> dict[str, Any]:
    return {"tensor": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
