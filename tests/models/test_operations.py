"""The table of operations says what TensorFlow and OpenVINO say."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import sealserve.models
from sealserve.models.graph import type_attribute
from sealserve.models.operations import TABLE, operations, output_type, unknown_to_openvino, unknown_to_tensorflow
from sealserve.wire.tensorflow_pb2 import AttrValue, DataType, NodeDef


@pytest.mark.parametrize(
    ("node", "output", "kind"),
    [
        (NodeDef(op="Relu", attr={"T": type_attribute(DataType.DT_HALF)}), 0, DataType.DT_HALF),
        (NodeDef(op="Relu"), 0, None),
        (NodeDef(op="Relu", attr={"T": AttrValue(i=1)}), 0, None),
        (NodeDef(op="ArgMax"), 0, DataType.DT_INT64),
        (NodeDef(op="ArgMax", attr={"output_type": type_attribute(DataType.DT_INT32)}), 0, DataType.DT_INT32),
        (NodeDef(op="TopKV2", attr={"T": type_attribute(DataType.DT_FLOAT)}), 1, DataType.DT_INT32),
        (NodeDef(op="Equal"), 0, DataType.DT_BOOL),
        (NodeDef(op="Equal"), 1, None),
        (NodeDef(op="Split", attr={"T": AttrValue(type=3), "num_split": AttrValue(i=3)}), 2, DataType.DT_INT32),
        (NodeDef(op="Split", attr={"T": AttrValue(type=3), "num_split": AttrValue(i=3)}), 3, None),
        (NodeDef(op="Split", attr={"T": AttrValue(type=3), "num_split": AttrValue(i=1 << 62)}), 1 << 61, None),
        (NodeDef(op="While", attr={"T": AttrValue(list=AttrValue.ListValue(type=[1, 7]))}), 1, DataType.DT_STRING),
        (NodeDef(op="While"), 0, None),
        (NodeDef(op="NoSuchOperation"), 0, None),
    ],
)
def test_the_type_of_an_output_is_told_by_the_node(node, output, kind):
    assert output_type(node, output) == kind


def test_operations_that_an_engine_lacks_are_named():
    names = ["Relu", "StringUpper", "Addons>Resampler"]
    assert unknown_to_tensorflow(names) == ["Addons>Resampler"]
    assert unknown_to_openvino(names) == ["Addons>Resampler", "StringUpper"]


@pytest.mark.slow
def test_the_table_is_tensorflows_and_openvinos_own():
    """To make it anew: `python tests/models/operations_table.py > src/sealserve/models/operations.txt`."""
    pytest.importorskip("tensorflow")
    made = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("operations_table.py"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    there = resources.files(sealserve.models).joinpath(TABLE).read_text(encoding="utf-8")
    assert len(operations()) > 1500
    assert made == there
