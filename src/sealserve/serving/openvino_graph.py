"""A frozen graph in OpenVINO."""

from __future__ import annotations

from typing import Any

import openvino
from google.protobuf.message import EncodeError

from sealserve.errors import ModelError
from sealserve.serving.frozen_graph import FrozenGraph
from sealserve.serving.model_files import memory_file, path_of, seal
from sealserve.serving.openvino_errors import USE_TENSORFLOW
from sealserve.serving.tensor_bundle import StoredTensor

_MOST_BYTES = (1 << 31) - 1  # of a protobuf message
_LIGHT_BYTES = 64 << 10
_BODIES = frozenset({"If", "Loop", "TensorIterator"})


def read_graph(core: openvino.Core, frozen: FrozenGraph, signature: str) -> openvino.Model:
    """OpenVINO's model of a frozen graph, which has its weights then and the graph none.

    :raises ModelError: the graph is too large. :raises RuntimeError: OpenVINO cannot convert it.
    """
    try:
        data = frozen.graph.SerializeToString()
    except EncodeError:
        data = b""
    if not 0 < len(data) <= _MOST_BYTES:
        raise ModelError(
            f"the graph of the signature {signature} is larger than 2 GiB without its weights",
            hint=f"{USE_TENSORFLOW}.",
        )
    with memory_file("graph") as file:
        file.write(data)
        seal(file)
        model = core.read_model(path_of(file))
    parameters = {name: one for one in model.get_parameters() for name in one.output(0).get_names()}
    while frozen.weights:
        name, value = frozen.weights.popitem()
        parameter = parameters.get(f"{name}:0")
        if parameter is not None:
            parameter.output(0).replace(_constant(value, parameter.get_element_type()).output(0))
            model.remove_parameter(parameter)
    # Shapes were known before; what a value says about others is found now.
    model.validate_nodes_and_infer_types()
    return model


def is_light(model: openvino.Model) -> bool:
    """Whether a run on a small input is over before a second thread has woken up: its values are few."""
    total = 0
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind in _BODIES:
            return False
        if kind == "Constant":
            total += operation.get_byte_size()
    return total <= _LIGHT_BYTES


def _constant(value: StoredTensor, kind: openvino.Type) -> Any:
    """A constant over the value's own memory."""
    array = value.data.view(kind.to_dtype()).reshape(value.shape)
    return openvino.op.Constant(array, shared_memory=True)
