"""The restricted reader of PyTorch's weight files, against files written here and the published one."""

from __future__ import annotations

import contextlib
import io
import pickle
import resource
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.models.pytorch_file import MAGIC_NUMBER, WeightFileError, parse_pytorch_file, read_pytorch_file


class Tensor:
    """Pickles as a PyTorch tensor over a storage."""

    def __init__(self, key, values, *, offset=0, shape=None, strides=(1,), kind="FloatStorage", count=None):
        self.key, self.values, self.kind = key, values, kind
        self.count = len(values) if count is None else count
        self.rest = (offset, (len(values),) if shape is None else shape, strides, False, OrderedDict())

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (Storage(self.kind, self.key, self.count), *self.rest)


class Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", getattr(sys.modules["torch"], kind), key, "cpu", count, None)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """Just enough of the module for the standard library's pickler to write its names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "HalfStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))
    exec("def _rebuild_tensor_v2(*arguments): pass", utils.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def weight_file(tensors, *, keys=None, magic=MAGIC_NUMBER, version=1001, counts=None):
    file = io.BytesIO()
    for head in (magic, version, {"little_endian": True}):
        pickle.dump(head, file, protocol=2)
    Pickler(file, protocol=2).dump(tensors)
    storages = {t.key: t for t in tensors.values() if isinstance(t, Tensor)} if isinstance(tensors, dict) else {}
    pickle.dump(sorted(storages) if keys is None else keys, file, protocol=2)
    for key in sorted(storages):
        values = np.asarray(storages[key].values, dtype="<i8" if storages[key].kind == "LongStorage" else "<f4")
        file.write(struct.pack("<q", (counts or {}).get(key, values.size)) + values.tobytes())
    return file.getvalue()


def test_tensors_come_with_their_shape_strides_and_offset():
    data = weight_file(
        OrderedDict(
            transposed=Tensor("1", [0, 1, 2, 3, 4, 5], shape=(2, 3), strides=(1, 2)),
            tail=Tensor("2", [9, 8, 7], offset=1, shape=(2,)),
            steps=Tensor("3", [42], shape=(), strides=(), kind="LongStorage"),
        )
    )
    tensors = parse_pytorch_file(data)
    assert tensors["transposed"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert tensors["tail"].tolist() == [8, 7]
    assert tensors["steps"].dtype == np.int64
    assert tensors["steps"].item() == 42
    assert not tensors["transposed"].flags.writeable


def test_two_tensors_may_share_a_storage():
    tensors = {"a": Tensor("1", [1, 2, 3, 4], shape=(2,)), "b": Tensor("1", [1, 2, 3, 4], offset=2, shape=(2,))}
    read = parse_pytorch_file(weight_file(tensors))
    assert read["b"].tolist() == [3, 4]


class Malicious:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(exec, ("raise SystemExit",)), (getattr, (1, "real")), (Path, ("x",)), (types.SimpleNamespace, ())],
)
def test_a_file_that_names_anything_else_is_refused_and_nothing_runs(function, arguments):
    data = weight_file({"a": Malicious(function, *arguments)})
    with pytest.raises(WeightFileError, match="describes no tensor") as caught:
        parse_pytorch_file(data)
    assert function.__name__ in caught.value.message


def test_code_in_the_head_of_a_file_is_refused():
    for head in (pickle.dumps(Malicious(exec, "raise SystemExit")), pickle.dumps(OrderedDict())):
        with pytest.raises(WeightFileError, match="describes no tensor"):
            parse_pytorch_file(head)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: b"", "malformed or cut short"),
        (lambda: b"PK\x03\x04 a newer file", "malformed or cut short"),
        (lambda: weight_file({}, magic=1), "magic number"),
        (lambda: weight_file({}, version=1002), "protocol version"),
        (lambda: weight_file([1, 2]), "dictionary of tensors"),
        (lambda: weight_file({"a": 1}), "dictionary of tensors"),
        (lambda: weight_file({"a": Tensor("1", [1.0])}, keys=[]), "lacks 1"),
        (lambda: weight_file({"a": Tensor("1", [1.0])}, keys=["2"]), "does not fit"),
        (lambda: weight_file({"a": Tensor("1", [1.0])}, keys=["1", "1"]), "does not fit"),
        (lambda: weight_file({"a": Tensor("1", [1.0])}, keys=[["1"]]), "does not fit"),
        (lambda: weight_file({"a": Tensor("1", [1.0])}, counts={"1": 2}), "cut short in the storage 1"),
        (lambda: weight_file({"a": Tensor("1", [1.0], count=1 << 60)}, counts={"1": 1 << 60}), "cut short"),
        (lambda: weight_file({"a": Tensor("1", [1.0, 2.0])})[:-1], "cut short in the storage 1"),
        (lambda: weight_file({"a": Tensor("1", [1.0, 2.0], offset=1, shape=(2,))}), "beyond its storage"),
        (lambda: weight_file({"a": Tensor("1", [1.0, 2.0], shape=(2,), strides=(9,))}), "beyond its storage"),
        (lambda: weight_file({"a": Tensor("1", [1.0], shape=(1 << 50,), strides=(0,))}), "elements of 1"),
        (lambda: weight_file({"a": Tensor("1", [1.0], shape=(-1,))}), "malformed"),
        (lambda: weight_file({"a": Tensor("1", [1.0], offset=-1)}), "malformed"),
        (lambda: weight_file({"a": Tensor("1", [1.0], shape=(1, 1))}), "malformed"),
        (lambda: weight_file({"a": Tensor("1", [1.0], kind="HalfStorage")}), "torch.HalfStorage"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(data, says):
    with pytest.raises(WeightFileError, match=says):
        parse_pytorch_file(data())


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_gives_tensors_or_a_weight_file_error(data):
    original = weight_file({"a": Tensor("1", [1, 2, 3, 4], shape=(2, 2), strides=(2, 1)), "b": Tensor("2", [5])})
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    with contextlib.suppress(WeightFileError):
        for array in parse_pytorch_file(bytes(damaged)).values():
            array.sum()


def test_a_huge_memo_index_is_refused_before_a_table_is_made_for_it():
    original = weight_file({"a": Tensor("1", [1, 2, 3, 4], shape=(2, 2), strides=(2, 1))})
    memo = original.index(b"q\x00")  # BINPUT 0 becomes LONG_BINPUT 0x7FFFFFFF
    bomb = original[:memo] + b"r\xff\xff\xff\x7f" + original[memo + 2 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightFileError, match="malformed"):
        parse_pytorch_file(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the table would take 32 GiB


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(Exception, match="cannot read"):
        read_pytorch_file(tmp_path / "nothing.pth")
