"""What a model directory holds, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealserve.errors import ModelError
from sealserve.models.saved_model import SAVED_MODEL_FILE, Signature, TensorSpec, find_versions, read_saved_model


@dataclass(frozen=True)
class ModelDescription:
    """One version of a model, and which others there are.

    :ivar version: the described one; None where the directory has no versions.
    :ivar size: bytes of its files.
    :ivar operations: how often each operation occurs.
    """

    path: Path
    version: int | None
    versions: tuple[int, ...]
    size: int
    signatures: Mapping[str, Signature]
    operations: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON ready; -1 stands for an unknown dimension, null for an unknown rank."""
        return {
            "path": str(self.path),
            "version": self.version,
            "versions": list(self.versions),
            "size": self.size,
            "signatures": {name: _signature_dict(signature) for name, signature in self.signatures.items()},
            "operations": dict(self.operations),
        }

    def as_text(self) -> str:
        """Lines for a terminal."""
        lines = [f"{self.path}", f"  size        {self.size:,} bytes"]
        if self.version is not None:
            others = ", ".join(map(str, self.versions))
            lines.append(f"  version     {self.version} (there: {others})")
        for name, signature in self.signatures.items():
            lines.append(f"  signature   {name}")
            lines += [f"    input     {alias}: {spec}" for alias, spec in signature.inputs.items()]
            lines += [f"    output    {alias}: {spec}" for alias, spec in signature.outputs.items()]
        counts = ", ".join(f"{name} {count}" for name, count in self.operations.items())
        lines.append(f"  operations  {counts}")
        return "\n".join(lines)


def describe_model(directory: Path, version: int | None = None) -> ModelDescription:
    """Describe a model.

    :param directory: a model's directory with versions, or that of one version.
    :param version: which to describe; the highest if not given.
    :raises ModelError: there is no model, or not in that version.
    """
    if (directory / SAVED_MODEL_FILE).exists():
        versions: dict[int, Path] = {}
        path, chosen = directory, None
        if version is not None:
            raise ModelError(f"{directory} is one version and holds no others", hint="Leave the version out.")
    else:
        versions = find_versions(directory)
        chosen = max(versions) if version is None else version
        if chosen not in versions:
            raise ModelError(f"{directory} has no version {chosen}", hint=f"It has: {', '.join(map(str, versions))}.")
        path = versions[chosen]
    content = read_saved_model(path)
    return ModelDescription(
        path=path,
        version=chosen,
        versions=tuple(versions),
        size=content.size(),
        signatures=content.signatures,
        operations=dict(sorted(content.operations().items(), key=lambda item: (-item[1], item[0]))),
    )


def _signature_dict(signature: Signature) -> dict[str, Any]:
    return {
        "method_name": signature.method_name,
        "inputs": {name: _spec_dict(spec) for name, spec in signature.inputs.items()},
        "outputs": {name: _spec_dict(spec) for name, spec in signature.outputs.items()},
    }


def _spec_dict(spec: TensorSpec) -> dict[str, Any]:
    return {"tensor": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
