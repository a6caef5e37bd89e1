"""Classify, Regress and MultiInference: TensorFlow Serving's results and messages, and nothing parsed on the way."""

from __future__ import annotations

import numpy as np
import pytest
from example_models import FunctionModel, example, examples_input, sorting_model, strings
from hypothesis import given
from hypothesis import strategies as st

from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.errors import RequestError, ServableNotFoundError, UnsupportedError
from sealserve.serving.examples import classify, multi_inference, regress
from sealserve.serving.examples.input import serialized_examples
from sealserve.wire.tensorflow_pb2 import DataType, Example
from sealserve.wire.tensorflow_serving_pb2 import Input, MultiInferenceRequest
from sealserve.wire.tensorflow_serving_serialized_pb2 import SerializedInput

SORT = ModelChoice("sort")
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture
def model():
    return sorting_model()


@pytest.fixture
def core(model):
    core = ModelServer()
    core.add_model("sort", 3, model)
    return core


def core_of(function, outputs, **settings):
    core = ModelServer()
    core.add_model("sort", 1, FunctionModel({"serving_default": function}, {"serving_default": outputs}, **settings))
    return core


def given_examples(*examples, context=None):
    return examples_input(Input(), *examples, context=context)


ONE = given_examples(example(x=1))


def test_classes_and_scores_are_those_of_each_example(core):
    answer = classify(core, SORT, given_examples(example(x=1), example(x=-2)))
    rows = [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications]
    assert rows == [[("minus", -1), ("plus", 1)], [("minus", 2), ("plus", -2)]]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("sort", 3)
    assert answer.model_spec.signature_name == "serving_default"


def test_a_number_is_that_of_each_example(core):
    answer = regress(core, SORT, given_examples(example(x=1), example(x=-2)), signature="regress")
    assert [one.value for one in answer.result.regressions] == [2, -4]
    assert answer.model_spec.signature_name == "regress"


def test_the_contexts_features_are_under_each_examples_own(core):
    given = given_examples(example(), example(x=7), context=example(x=5, y=1))
    assert [one.value for one in regress(core, SORT, given, signature="regress").result.regressions] == [10, 14]


@pytest.mark.parametrize("outputs", [["classes"], ["scores"]])
def test_one_of_classes_and_scores_is_enough(outputs):
    values = {"classes": strings([b"a", b"b"]), "scores": np.array([[1, 2]], np.float32)}
    answer = classify(core_of(lambda inputs: values, outputs), SORT, ONE)
    (row,) = answer.result.classifications
    assert [one.label for one in row.classes] == (["a", "b"] if outputs == ["classes"] else ["", ""])
    assert [one.score for one in row.classes] == ([0, 0] if outputs == ["classes"] else [1, 2])


@pytest.mark.parametrize("given", [Input(), given_examples(), given_examples(context=example(x=1)), SerializedInput()])
def test_an_empty_input_is_refused(core, given):
    for function, signature in ((classify, "classify"), (regress, "regress")):
        with pytest.raises(RequestError, match=r"^Input is empty\.$"):
            function(core, SORT, given, signature=signature)


def test_what_is_wrong_with_the_model_is_said_first(core):
    with pytest.raises(ServableNotFoundError, match=r"Latest\(other\)"):
        classify(core, ModelChoice("other"), Input())
    with pytest.raises(RequestError, match=r"^No signature was found with the name: other$"):
        classify(core, SORT, Input(), signature="other")
    with pytest.raises(RequestError, match=r"^No signature was found with the name: other$"):
        regress(core, SORT, Input(), signature="other")


def test_signatures_that_do_something_else_are_refused(core):
    with pytest.raises(RequestError, match=r"^Expected one output Tensor\.$"):
        regress(core, SORT, ONE, signature="classify")
    with pytest.raises(
        RequestError, match=r'^Expected classification signature outputs to contain at least one of "cl'
    ):
        classify(core, SORT, ONE, signature="regress")
    with pytest.raises(RequestError, match=r"^No regression outputs found in SignatureDef: "):
        regress(core_of(None, ["other"]), SORT, ONE)
    with pytest.raises(RequestError, match=r"^Expected one or two output Tensors, found 3$"):
        classify(core_of(None, ["classes", "scores", "other"]), SORT, ONE)
    none = {"serving_default": {}}
    for function, outputs, kind in ((classify, ["scores"], "classification"), (regress, ["outputs"], "regression")):
        with pytest.raises(RequestError, match=r"^Expected one input Tensor\.$"):
            function(core_of(None, outputs, inputs=none), SORT, ONE)
        spec = sorting_model().signatures["regress"].inputs["inputs"]
        with pytest.raises(RequestError, match=f"^No {kind} inputs found in SignatureDef: "):
            function(core_of(None, outputs, inputs={"serving_default": {"x": spec}}), SORT, ONE)


FLOATS, LABELS = np.zeros((1, 2), np.float32), strings([b"a", b"b"])


@pytest.mark.parametrize(
    ("classes", "scores", "message"),
    [
        (LABELS[0], FLOATS, r"Expected Tensor shape: \[batch_size num_classes\] but got \[2\]"),
        (LABELS, FLOATS[0], r"Expected Tensor shape: \[batch_size num_classes\] but got \[2\]"),
        (FLOATS, FLOATS, "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (LABELS, FLOATS.astype(np.float64), "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        (LABELS, FLOATS.astype(np.float16), "Expected scores Tensor of DT_FLOAT. Got: DT_HALF"),
        (LABELS, FLOATS.astype(np.int64), "Expected scores Tensor of DT_FLOAT. Got: DT_INT64"),
        (LABELS.repeat(2, axis=0), FLOATS, "Expected classes output batch size of 1. Got: 2"),
        (LABELS, FLOATS.repeat(2, axis=0), "Expected scores output batch size of 1. Got: 2"),
        (LABELS[:, :1], FLOATS, r"Tensors class and score should match in dim_size\(1\). Got 1 vs. 2"),
        (strings([b"\xff", b"b"]), FLOATS, "not UTF-8"),
    ],
)
def test_outputs_that_are_no_classes_are_refused(classes, scores, message):
    core = core_of(lambda inputs: {"classes": classes, "scores": scores}, ["classes", "scores"])
    with pytest.raises(RequestError, match=message):
        classify(core, SORT, ONE)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((1, 2), np.float32), r"either \[batch_size\] or \[batch_size, 1\] but got \[1,2\]"),
        (np.zeros((1, 1, 1), np.float32), r"either \[batch_size\] or \[batch_size, 1\] but got \[1,1,1\]"),
        (np.float32(0).reshape(()), r"either \[batch_size\] or \[batch_size, 1\] but got \[\]"),
        (np.zeros(2, np.float32), "Input batch size did not match output batch size: 1 vs. 2"),
        (np.zeros(1, np.float64), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
)
def test_outputs_that_are_no_numbers_are_refused(outputs, message):
    with pytest.raises(RequestError, match=message):
        regress(core_of(lambda inputs: {"outputs": outputs}, ["outputs"]), SORT, ONE)


def test_a_column_of_numbers_is_as_good_as_a_list():
    core = core_of(lambda inputs: {"outputs": np.ones((1, 1), np.float32)}, ["outputs"])
    assert [one.value for one in regress(core, SORT, ONE).result.regressions] == [1]


def test_a_large_context_is_not_repeated_for_every_example():
    given = SerializedInput()
    given.example_list_with_context.context = bytes(1 << 20)
    given.example_list_with_context.examples.extend([b""] * 1000)
    with pytest.raises(RequestError, match="takes more than"):
        serialized_examples(given)
    assert len(serialized_examples(given, max_bytes=1 << 30)) == 1000


@given(st.lists(st.dictionaries(st.text(), st.floats(width=32)), min_size=1), st.dictionaries(st.text(), st.just(1.0)))
def test_each_string_is_its_example_with_the_context(features, shared):
    given = given_examples(*[example(**one) for one in features], context=example(**shared))
    for wire in (given, SerializedInput.FromString(given.SerializeToString())):
        for string, one in zip(serialized_examples(wire), features, strict=True):
            merged = Example.FromString(string).features.feature
            assert merged.keys() == one.keys() | shared.keys()


def tasks(*pairs, model="sort"):
    request = MultiInferenceRequest()
    for signature, method in pairs:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = model, signature
    request.input.CopyFrom(given_examples(example(x=2)))
    return request


def test_several_signatures_are_answered_in_the_order_asked_each_run_once(core, model):
    answer = multi_inference(core, tasks(("regress", REGRESS), ("", CLASSIFY)))
    one, other = answer.results
    assert one.regression_result.regressions[0].value == 4
    assert [c.score for c in other.classification_result.classifications[0].classes] == [-2, 2]
    assert [one.model_spec.signature_name, other.model_spec.signature_name] == ["regress", "serving_default"]
    assert {(r.model_spec.name, r.model_spec.version.value) for r in answer.results} == {("sort", 3)}
    assert model.asked == ["regress", "serving_default"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (tasks(), "ModelSpec has no name specified"),
        (tasks(("", CLASSIFY), ("serving_default", CLASSIFY)), "Duplicate evaluation of signature: serving_default"),
        (tasks(("other", CLASSIFY)), "Requested signature not found in model graph: other"),
        (tasks(("regress", CLASSIFY)), "Expected classification signature outputs"),
        (tasks(("classify", REGRESS)), "Expected one output Tensor"),
        (tasks(("", CLASSIFY), model=""), "ModelSpec has no name specified"),
    ],
)
def test_tasks_that_cannot_be_done_together_are_refused_before_anything_runs(core, model, request_, message):
    with pytest.raises(RequestError, match=message):
        multi_inference(core, request_)
    assert model.asked == []


def test_all_tasks_are_for_one_model(core, model):
    request = tasks(("", CLASSIFY), ("regress", REGRESS))
    request.tasks[1].model_spec.name = ""
    with pytest.raises(RequestError, match="Found ModelSpec with an empty model name"):
        multi_inference(core, request)
    request.tasks[1].model_spec.name = "other"
    with pytest.raises(RequestError, match="must access the same model name"):
        multi_inference(core, request)
    assert model.asked == []


def test_a_method_that_takes_no_examples_is_unimplemented(core):
    with pytest.raises(UnsupportedError, match="Unsupported signature method_name: tensorflow/serving/predict") as info:
        multi_inference(core, tasks(("", "tensorflow/serving/predict")))
    assert info.value.code == "UNIMPLEMENTED"


def test_examples_for_a_model_that_takes_numbers_are_refused():
    spec = {"inputs": type(sorting_model().signatures["regress"].inputs["inputs"])("x:0", DataType.DT_FLOAT, (-1,))}
    core = core_of(lambda inputs: None, ["outputs"], inputs={"serving_default": spec})
    with pytest.raises(RequestError, match=r"Expects arg\[0\] to be float but string is provided"):
        regress(core, SORT, ONE)
