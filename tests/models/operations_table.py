"""Print ``operations.txt`` as the installed TensorFlow and OpenVINO have it."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from openvino.frontend import FrontEndManager, OpConversionFailure
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session

from sealserve.models.graph import GraphBuilder
from sealserve.wire.tensorflow_pb2 import DataType

# OpenVINO 2026.4 has a rule for it, and crashes where it has no input.
CRASHES = {"NextIteration"}


def tensorflow_operations():
    data = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    return sorted(op_def_pb2.OpList.FromString(data).op, key=lambda one: one.name)


def without_rule(names):
    """A graph of one node for each: OpenVINO lists those that it cannot convert at all."""
    graph = GraphBuilder()
    for index, name in enumerate(names):
        graph.node(name, f"node{index}", [])
    frontend = FrontEndManager().load_by_framework("tf")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.pb"
        path.write_bytes(graph.saved_model({}, {}, signature="none").meta_graphs[0].graph_def.SerializeToString())
        try:
            frontend.convert(frontend.load(str(path)))
        except OpConversionFailure as error:
            return set(re.search("No conversion rule found for operations: ([^\n]+)", str(error))[1].split(", "))
    return set()


def output(operation, argument):
    defaults = {one.name: one.default_value.type for one in operation.attr if one.HasField("default_value")}
    if argument.type_list_attr:
        return f"{argument.type_list_attr}..."
    kind = argument.type_attr or DataType.Name(argument.type).removeprefix("DT_").lower()
    if argument.type_attr in defaults:
        kind += "=" + DataType.Name(defaults[argument.type_attr]).removeprefix("DT_").lower()
    return f"{kind}*{argument.number_attr}" if argument.number_attr else kind


def main():
    found = tensorflow_operations()
    lacking = without_rule([one.name for one in found if one.name not in CRASHES])
    for one in found:
        mark = "-" if one.name in lacking else "+"
        sys.stdout.write(" ".join([one.name, mark, *(output(one, argument) for argument in one.output_arg)]) + "\n")


if __name__ == "__main__":
    main()
