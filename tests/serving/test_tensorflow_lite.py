"""TensorFlow Lite models on OpenVINO, from files in memory: what TensorFlow Lite's interpreter answers."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

tf = pytest.importorskip("tensorflow")

from sealserve.errors import ModelError  # noqa: E402
from sealserve.serving.errors import RequestError  # noqa: E402
from sealserve.serving.model_files import MemoryFiles  # noqa: E402
from sealserve.serving.tflite_signatures import read_signatures  # noqa: E402

ROWS = np.random.default_rng(5).standard_normal((3, 8, 8, 2)).astype(np.float32)
OFFSET = np.float32([[0.5, -1, 2]])


class Module(tf.Module):
    """Convolves, and has two inputs and two outputs whose order is not that of their names."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.filters = tf.Variable(generator.standard_normal((3, 3, 2, 4)).astype(np.float32))
        self.weights = tf.Variable(generator.standard_normal((4, 3)).astype(np.float32))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 8, 8, 2], tf.float32, name="pixels"),
            tf.TensorSpec([1, 3], tf.float32, name="a_offset"),
        ]
    )
    def call(self, pixels, a_offset):
        hidden = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(pixels, self.filters, 1, "SAME")), [1, 2])
        scores = tf.nn.softmax(hidden @ self.weights + a_offset)
        return {"scores": scores, "best": tf.argmax(scores, 1), "a_sum": tf.reduce_sum(pixels, [1, 2, 3])}


@pytest.fixture(scope="module")
def converted():
    module = Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
    return converter.convert()


def loaded(engine, content):
    with MemoryFiles() as files:
        with files.add("model.tflite") as file:
            file.write(content)
        return engine.load(files)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_answers_and_names_are_the_interpreters(engine, converted):
    interpreter = tf.lite.Interpreter(model_content=converted)
    ((name, told),) = interpreter.get_signature_list().items()
    model = loaded(engine, converted)
    signature = model.signatures[name]
    assert sorted(signature.inputs) == sorted(told["inputs"])
    assert sorted(signature.outputs) == sorted(told["outputs"])
    inputs = {"pixels": ROWS, "a_offset": OFFSET}
    interpreter.resize_tensor_input(_index(interpreter, "pixels"), ROWS.shape)
    expected = interpreter.get_signature_runner(name)(**inputs)
    answers = model.predict(name, inputs)
    assert answers.keys() == expected.keys()
    for alias, array in expected.items():
        assert answers[alias].dtype == array.dtype
        np.testing.assert_allclose(answers[alias], array, atol=1e-4)
    assert str(signature.inputs["pixels"]) == "float [?, 8, 8, 2]"
    with pytest.raises(RequestError, match="Incompatible shape"):
        model.predict(name, {**inputs, "pixels": ROWS[:, :4]})


def _index(interpreter, name):
    return next(one["index"] for one in interpreter.get_input_details() if name in one["name"])


def test_what_is_read_is_the_file_in_memory_that_was_given(engine, converted):
    """OpenVINO opens it by a path with a zero in it: should that change, it must not find another file."""
    assert loaded(engine, converted).signatures
    with pytest.raises(ModelError):
        loaded(engine, converted[:1000])


def test_any_bytes_have_names_or_are_refused(converted):
    @given(st.integers(0, len(converted) - 1), st.binary(min_size=1, max_size=8))
    def change(at, data):
        damaged = bytearray(converted)
        damaged[at : at + len(data)] = data
        with contextlib.suppress(ModelError):
            read_signatures(memoryview(damaged))

    change()
    for length in range(0, len(converted), 97):
        with contextlib.suppress(ModelError):
            read_signatures(memoryview(converted[:length]))
