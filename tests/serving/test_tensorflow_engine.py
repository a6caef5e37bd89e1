"""The engine ``tensorflow``, against TensorFlow's own loader on the same models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving_models import affine_model, load

tf = pytest.importorskip("tensorflow")

from tensorflow_models import FLOATS, Numbers, Tables, as_tensorflow_serving  # noqa: E402

from sealserve.errors import ConfigurationError, ModelError  # noqa: E402
from sealserve.models.writing import write_saved_model  # noqa: E402
from sealserve.serving.engine import Waiting  # noqa: E402
from sealserve.serving.engines import create_engine  # noqa: E402
from sealserve.serving.errors import CallerGoneError, RequestError, SignatureNotFoundError  # noqa: E402
from sealserve.serving.model_files import MemoryFiles, directory_files  # noqa: E402

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="session")
def engine():
    return create_engine("tensorflow", threads=2)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    target = tmp_path_factory.mktemp("numbers") / "1"
    module = Numbers()
    names = ("project", "branch", "loop", "narrow", "kinds", "upper")
    tf.saved_model.save(module, str(target), signatures={name: getattr(module, name) for name in names})
    return target


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tables")
    vocabulary = directory / "vocabulary.txt"
    vocabulary.write_text("zero\none\ntwo\n")
    module = Tables(vocabulary)
    tf.saved_model.save(module, str(directory / "1"), signatures=module.words)
    vocabulary.unlink()
    return directory / "1"


def in_memory(engine, directory):
    """Load from memory files that are closed afterwards."""
    with MemoryFiles() as files:
        for path in directory.rglob("*"):
            if path.is_file():
                with files.add(path.relative_to(directory).as_posix()) as file:
                    file.write(path.read_bytes())
        return engine.load(files)


def same(answers, expected):
    assert answers.keys() == expected.keys()
    for alias, value in expected.items():
        array = np.asarray(value, dtype=object if isinstance(value, bytes) else None)
        assert answers[alias].dtype == array.dtype, alias
        assert answers[alias].shape == array.shape, alias
        assert np.array_equal(answers[alias], array), alias


def test_half_plus_two_answers(engine, half_plus_two):
    model = load(engine, half_plus_two)
    assert model.platform == "tensorflow"
    assert model.predict("serving_default", {"x": np.float32([1, 2, 5])})["y"].tolist() == [2.5, 3.0, 4.5]
    assert model.signature_definitions["serving_default"].inputs["x"].name == "x:0"


@pytest.mark.parametrize("name", ["project", "branch", "loop", "narrow", "kinds", "upper"])
def test_each_signature_gives_what_tensorflow_gives(engine, numbers, name):
    model = in_memory(engine, numbers)
    inputs = {"x": X}
    if name == "kinds":
        inputs = {"scalar": np.array(3.25), "flags": np.array([True, False])}
    if name == "upper":
        inputs = {"s": np.array([b"abc", b"\xff\0", b""], object)}
    for given in (inputs, {"x": -X}) if "x" in inputs else (inputs,):
        same(model.predict(name, given), as_tensorflow_serving(numbers, given, name))


def test_strings_may_come_as_any_kind_of_array(engine, numbers):
    model = load(engine, numbers)
    for array in (np.array(["ä", "b"]), np.array([b"\xc3\xa4", b"b"]), np.array([b"\xc3\xa4", b"b"], object)):
        assert model.predict("upper", {"s": array})["length"].tolist() == [2, 1]


def test_lookup_tables_and_assets_agree_with_tensorflow(engine, tables):
    words = {"words": np.array([b"zero", b"two", b"other", b"one", b"kept"], object)}
    expected = as_tensorflow_serving(tables, words)
    assert expected["ids"].tolist() == [0, 2, 3, 1, 3]
    model = in_memory(engine, tables)
    answers = model.predict("serving_default", words)
    same(answers, expected)
    assert answers["asset"][()] == b"zero\none\ntwo\n"
    assert answers["changing"].tolist() == [-1, -1, -1, -1, 7]


def test_loading_opens_no_file_of_the_model_by_its_name(engine, tables, tmp_path):
    copy = tmp_path / "1"
    shutil.copytree(tables, copy)
    with directory_files(copy) as files:
        shutil.rmtree(copy)
        model = engine.load(files)
    words = {"words": np.array([b"two", b"kept"], object)}
    answers = model.predict("serving_default", words)
    assert (answers["ids"].tolist(), answers["changing"].tolist()) == ([2, 3], [-1, 7])


def test_an_asset_that_is_missing_is_named(engine, tables, tmp_path):
    shutil.copytree(tables, tmp_path / "1")
    (tmp_path / "1" / "assets" / "vocabulary.txt").unlink()
    with pytest.raises(ModelError, match=r"assets/vocabulary\.txt is missing"):
        load(engine, tmp_path / "1")


def test_variables_that_are_missing_or_cut_short_are_refused(engine, numbers, tmp_path):
    shutil.copytree(numbers, tmp_path / "1")
    data = tmp_path / "1" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])
    with pytest.raises(ModelError, match="cut short"):
        load(engine, tmp_path / "1")
    data.unlink()
    with pytest.raises(ModelError, match="has no variables"):
        load(engine, tmp_path / "1")


@pytest.mark.parametrize("kind", ["resource", "reference", "partitioned"])
def test_variables_of_tensorflow_1_agree_with_tensorflow(engine, tmp_path, kind):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder_with_default(np.zeros((1, 100), np.float32), [None, 100], name="x")
        parts = v1.fixed_size_partitioner(3) if kind == "partitioned" else None
        values = np.arange(300, dtype=np.float32).reshape(100, 3)
        with v1.variable_scope("all", use_resource=kind != "reference"):
            shape, start = ([100, 3], v1.zeros_initializer()) if parts else (None, values)
            weights = v1.get_variable("weights", shape, initializer=start, partitioner=parts)
        y = tf.matmul(x, tf.convert_to_tensor(weights))
        session.run(v1.global_variables_initializer())
        if parts:
            session.run([v1.assign(one, part) for one, part in zip(weights, np.split(values, [34, 67]), strict=True)])
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y, "w": tf.identity(weights)})
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([b"a"], tf.constant([5], tf.int64)), 0)
        word = v1.placeholder(tf.string, [None], name="word")
        words = v1.saved_model.predict_signature_def({"word": word}, {"id": table.lookup(word)})
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature, "words": words}, main_op=v1.tables_initializer()
        )
        builder.save()
    model = in_memory(engine, tmp_path / "1")
    inputs = {"x": np.ones((2, 100), np.float32)}
    expected = as_tensorflow_serving(tmp_path / "1", inputs)
    assert expected["w"].tolist() == values.tolist()
    same(model.predict("serving_default", inputs), expected)
    assert model.predict("words", {"word": np.array([b"a", b"b"], object)})["id"].tolist() == [5, 0]


def test_a_keras_export_agrees_with_keras(engine, tmp_path):
    layers = tf.keras.layers
    keras = tf.keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(5)]
    )
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    keras.export(str(tmp_path / "1"), verbose=False)
    model = load(engine, tmp_path / "1")
    (alias,), (output,) = (getattr(model.signatures["serving_default"], side) for side in ("inputs", "outputs"))
    assert np.allclose(model.predict("serving_default", {alias: x})[output], keras(x), atol=1e-5)


def test_errors_while_computing_have_tensorflows_code_and_message(engine, tmp_path):
    class Failing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def check(self, x):
            with tf.control_dependencies([tf.debugging.assert_positive(x, message="not positive")]):
                return {"y": tf.gather(tf.range(3), x)}

    module = Failing()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.check)
    model = load(engine, tmp_path / "1")
    assert model.predict("serving_default", {"x": np.int32([2])})["y"].tolist() == [2]
    for number, says in ((0, "not positive"), (3, "indices\\[0\\] = 3 is not in")):
        with pytest.raises(RequestError, match=says) as caught:
            model.predict("serving_default", {"x": np.int32([number])})
        assert caught.value.code == "INVALID_ARGUMENT"
        assert "Python" not in caught.value.message


def test_a_computation_ends_at_the_callers_deadline(engine, tmp_path):
    class Endless(tf.Module):
        @tf.function(input_signature=[FLOATS])
        def loop(self, x):
            while tf.reduce_sum(x) < 1e9:
                x = x * 1.0
            return {"y": x}

    module = Endless()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.loop)
    model = load(engine, tmp_path / "1")
    with pytest.raises(RequestError) as caught:
        model.predict("serving_default", {"x": X}, wanted=Waiting(lambda: True, lambda: 0.2))
    assert caught.value.code == "DEADLINE_EXCEEDED"
    big = {"x": np.full((1, 4), 1e9, np.float32)}
    assert model.predict("serving_default", big, wanted=Waiting(lambda: True, lambda: 30.0))["y"].shape == (1, 4)


def test_requests_that_do_not_fit_never_reach_tensorflow(engine, numbers):
    model = load(engine, numbers)
    with pytest.raises(RequestError, match="Expects arg"):
        model.predict("project", {"x": X.astype(np.float64)})
    with pytest.raises(RequestError, match="Incompatible shape"):
        model.predict("project", {"x": X[:, :3]})
    with pytest.raises(SignatureNotFoundError, match='Serving signature key "other" not found'):
        model.predict("other", {"x": X})
    with pytest.raises(CallerGoneError):
        model.predict("project", {"x": X}, wanted=lambda: False)


def test_answers_are_the_callers_own(engine, tmp_path):
    message = affine_model(1, 0)
    message.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = "x:0"
    model = load(engine, write_saved_model(tmp_path, 1, message))
    x = np.frombuffer(bytearray(1 << 16), np.float32)
    answer = model.predict("serving_default", {"x": x})["y"]
    x[:] = 7
    assert not answer.any()


def test_many_threads_get_their_own_answers(half_plus_two):
    model = load(create_engine("tensorflow", threads=1, parallel_requests=2), half_plus_two)

    def ask(number):
        x = np.full(100 + number, number, np.float32)
        return bool(np.all(model.predict("serving_default", {"x": x})["y"] == number / 2 + 2))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


def test_a_closed_model_has_no_open_file(engine, tables):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    model = in_memory(engine, tables)
    assert descriptors() == before + 1
    model.close()
    assert descriptors() == before


def test_an_operation_that_tensorflow_lacks_is_named(engine, tmp_path):
    version = write_saved_model(tmp_path, 1, affine_model(1, 1, operation="NoSuchOperation"))
    with pytest.raises(ModelError, match="has no operation NoSuchOperation"):
        load(engine, version)


@pytest.mark.parametrize("change", ["missing tensor", "another type"])
def test_a_signature_that_the_graph_does_not_bear_out_is_refused(engine, tmp_path, change):
    message = affine_model(1, 1)
    definitions = message.meta_graphs[0].signature_def
    definitions["wrong"].CopyFrom(definitions["serving_default"])
    if change == "missing tensor":
        definitions["wrong"].outputs["y"].name = "missing:0"
    else:
        definitions["wrong"].outputs["y"].dtype = 3
    model = load(engine, write_saved_model(tmp_path / "beside", 1, message))
    with pytest.raises(SignatureNotFoundError, match="the model's graph has"):
        model.predict("wrong", {"x": X[0]})
    assert set(model.signatures) == {"serving_default"}
    definitions["serving_default"].CopyFrom(definitions["wrong"])
    with pytest.raises(ModelError, match="the model's graph has"):
        load(engine, write_saved_model(tmp_path / "first", 1, message))


def test_a_cut_short_file_is_refused(engine, half_plus_two, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((half_plus_two / "saved_model.pb").read_bytes()[:-20])
    with pytest.raises(ModelError, match="cannot be parsed"):
        load(engine, tmp_path)
    with pytest.raises(ModelError, match=r"it has no saved_model\.pb"):
        engine.load({})


def test_an_engine_whose_package_is_missing_names_what_to_install():
    program = """
import sys
sys.modules["tensorflow"] = None
from sealserve.serving.engines import create_engine
try:
    create_engine("tensorflow")
except Exception as error:
    print(type(error).__name__, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == (
        "ConfigurationError Install it with `pip install '.[tensorflow]'`, where sealserve's pyproject.toml is."
    )


def test_engines_are_chosen_by_name_and_tensorflow_is_not_loaded_for_openvino():
    for settings in ({"name": "onnxruntime"}, {"precision": "f8"}, {"threads": 0}, {"parallel_requests": -1}):
        with pytest.raises(ConfigurationError):
            create_engine(**settings)
    with pytest.raises(ConfigurationError, match="has no precision bf16"):
        create_engine("tensorflow", precision="bf16")
    program = """
import sys
from sealserve.serving.engines import create_engine
engine = create_engine("openvino", precision="bf16", threads=1)
print(engine.name, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["openvino", "False"]
