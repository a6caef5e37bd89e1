"""A SavedModel of several signatures, seen as a model of one.

OpenVINO reads one signature of a SavedModel (``serving_default``, or one of its choice) and gives no way to choose.
Where a model has several, each is shown to it alone, under that name; and under tensor names of our own, because a
signature whose input and output have the same name would come back with names that OpenVINO made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sealserve.models.saved_model import DEFAULT_SIGNATURE, SAVED_MODEL_FILE, SavedModelContent
from sealserve.serving.memory_directory import MemoryDirectory
from sealserve.wire.tensorflow_pb2 import SavedModel, SignatureDef


@contextmanager
def signature_directory(
    content: SavedModelContent, signature: str
) -> Iterator[tuple[Path, Mapping[str, str], Mapping[str, str]]]:
    """A directory in memory with the model and that signature alone. The other files are links to the model's own.

    :returns: the directory, and the tensor names of the signature's inputs and of its outputs.
    """
    definition = content.meta_graph.signature_def[signature]
    inputs = {alias: f"sealserve_input_{index}" for index, alias in enumerate(sorted(definition.inputs))}
    outputs = {alias: f"sealserve_output_{index}" for index, alias in enumerate(sorted(definition.outputs))}
    alone = SignatureDef(
        inputs={inputs[alias]: info for alias, info in definition.inputs.items()},
        outputs={outputs[alias]: info for alias, info in definition.outputs.items()},
        method_name=definition.method_name,
    )
    message = SavedModel(saved_model_schema_version=1, meta_graphs=[content.meta_graph])
    message.meta_graphs[0].signature_def.clear()
    message.meta_graphs[0].signature_def[DEFAULT_SIGNATURE].CopyFrom(alone)
    with MemoryDirectory() as directory:
        with directory.add(SAVED_MODEL_FILE) as file:
            file.write(message.SerializeToString(deterministic=True))
        for entry in content.path.iterdir():
            if entry.name != SAVED_MODEL_FILE:
                (directory.path / entry.name).symlink_to(entry.absolute())
        yield directory.path, inputs, outputs
