"""Make ``descriptors.binpb`` and the ``*_pb2.pyi`` stubs from the ``.proto`` files here (needs grpcio-tools)."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
FILES = (
    "tensorflow.proto",
    "tensorflow_serving_config.proto",
    "tensorflow_serving.proto",
    "tensorflow_serving_serialized.proto",
    "open_inference.proto",
    "attestation.proto",
)


def generate(target: Path) -> None:
    """Write the descriptor set and the stubs into ``target``."""
    common = str(resources.files("grpc_tools").joinpath("_proto"))
    status = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{common}",
            "--include_imports",
            f"--descriptor_set_out={target / 'descriptors.binpb'}",
            f"--pyi_out={target}",
            *FILES,
        ]
    )
    if status:
        raise SystemExit(status)
    for stub in target.glob("*_pb2.pyi"):
        text = "\n" + stub.read_text()
        for name in FILES:
            module = name.removesuffix(".proto") + "_pb2"
            text = text.replace(f"\nimport {module} as", f"\nfrom sealserve.wire import {module} as")
        stub.write_text(text[1:])


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent)
