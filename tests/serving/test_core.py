"""Names, versions and signatures, in front of models that only say who they are."""

from __future__ import annotations

import numpy as np
import pytest

from sealserve.errors import InputError
from sealserve.serving.checks import check_inputs, select_outputs
from sealserve.serving.core import ModelChoice, ModelServer, State
from sealserve.serving.engine import Signature, TensorSpec
from sealserve.serving.errors import RequestError, ServableNotFoundError
from sealserve.wire.tensorflow_pb2 import DataType


class Named:
    signature_definitions = {}  # noqa: RUF012

    def __init__(self, name):
        self.name = name
        self.signatures = {"serving_default": None, "other": None}

    def predict(self, signature, inputs, output_filter=(), *, wanted=None):
        return {"name": np.array([self.name, signature])}

    def close(self):
        self.closed = getattr(self, "closed", 0) + 1


@pytest.fixture
def core():
    core = ModelServer()
    core.add_model("m", 2, Named("two"))
    core.add_model("m", 10, Named("ten"))
    core.add_model("m", 1, Named("one"))
    return core


def asked(core, **choice):
    return core.predict(ModelChoice(**choice), {}).outputs["name"].tolist()


def test_the_highest_version_answers_unless_another_is_asked_for(core):
    assert asked(core, name="m") == ["ten", "serving_default"]
    assert asked(core, name="m", version=2) == ["two", "serving_default"]
    answer = core.predict(ModelChoice("m", version=1), {}, signature="other")
    assert (answer.version, answer.signature) == (1, "other")


def test_a_removed_version_answers_no_more(core):
    core.remove_model("m", 10)
    assert asked(core, name="m")[0] == "two"
    core.remove_model("m", 2)
    core.remove_model("m", 1)
    assert dict(core.models) == {}
    with pytest.raises(ServableNotFoundError):
        core.remove_model("m", 1)


def test_a_removed_version_is_closed_once_when_its_last_request_is_done():
    core, model, told = ModelServer(), Named("one"), []
    core.add_model("m", 1, model, closed=lambda: told.append("closed"))
    with core.use(ModelChoice("m")) as (version, loaded), core.use(ModelChoice("m", version=1)):
        assert (version, loaded) == (1, model)
        core.remove_model("m", 1)
        with pytest.raises(ServableNotFoundError), core.use(ModelChoice("m")):
            pass
        assert not told
    assert told == ["closed"]
    assert model.closed == 1


def test_a_request_that_fails_gives_its_version_back(core):
    with pytest.raises(ValueError, match="mine"), core.use(ModelChoice("m", version=2)) as (_, model):
        raise ValueError("mine")
    core.remove_model("m", 2)
    assert model.closed == 1


def test_a_version_that_does_not_close_harms_nobody(core):
    told = []
    broken = Named("broken")
    broken.close = None
    core.add_model("m", 11, broken, closed=lambda: told.append("closed"))
    with core.use(ModelChoice("m")):
        core.remove_model("m", 11)
    assert told == ["closed"]
    assert asked(core, name="m")[0] == "ten"


def test_what_is_replaced_is_closed(core):
    before = core.models["m"]
    core.replace("m", 10, Named("new"))
    assert asked(core, name="m")[0] == "new"
    assert [model.closed for model in before.values()] == [1, 1, 1]
    again = core.models["m"][10]
    core.add_model("m", 10, Named("newer"), exchange=True)
    assert again.closed == 1
    assert asked(core, name="m", version=10)[0] == "newer"


def test_labels_are_names_of_versions(core):
    core.set_labels("m", {"stable": 2, "gone": 3})
    assert asked(core, name="m", label="stable")[0] == "two"
    with pytest.raises(ServableNotFoundError, match=r"Specific\(m, 3\)"):
        asked(core, name="m", label="gone")
    core.set_labels("m", {})
    with pytest.raises(RequestError, match="label: stable"):
        asked(core, name="m", label="stable")


def test_a_server_is_ready_when_every_configured_model_answers(core):
    empty = ModelServer()
    assert not empty.ready
    assert empty.names() == []
    assert core.ready
    assert core.names() == ["m"]
    core.configure({"m": {}, "other": {}})
    assert not core.ready
    assert core.names() == ["m", "other"]
    core.add_model("other", 1, Named("other"))
    assert core.ready


def test_what_is_loaded_is_available_where_nobody_says_otherwise(core):
    assert [(s.version, s.state) for s in core.status(ModelChoice("m"))] == [
        (10, State.AVAILABLE),
        (2, State.AVAILABLE),
        (1, State.AVAILABLE),
    ]
    with pytest.raises(ServableNotFoundError, match=r"^Could not find any versions of model x$"):
        core.status(ModelChoice("x"))


@pytest.mark.parametrize(
    ("choice", "kind", "says"),
    [
        (ModelChoice(""), RequestError, "ModelSpec has no name specified."),
        (ModelChoice("x"), ServableNotFoundError, "Servable not found for request: Latest(x)"),
        (ModelChoice("x", version=1), ServableNotFoundError, "Servable not found for request: Specific(x, 1)"),
        (ModelChoice("m", version=3), ServableNotFoundError, "Servable not found for request: Specific(m, 3)"),
        (ModelChoice("m", version=-1), ServableNotFoundError, "Servable not found for request: Specific(m, -1)"),
        (ModelChoice("m", label="stable"), RequestError, "Unrecognized servable version label: stable"),
    ],
)
def test_a_model_that_is_not_there_is_answered_as_tensorflow_serving_does(core, choice, kind, says):
    with pytest.raises(kind) as caught:
        core.predict(choice, {})
    assert caught.value.message == says


def test_a_version_is_added_once(core):
    with pytest.raises(InputError, match="version 2 of the model m is loaded already"):
        core.add_model("m", 2, Named("again"))
    for name, version in (("", 1), ("m", -1)):
        with pytest.raises(InputError):
            core.add_model(name, version, Named("x"))


SIGNATURE = Signature(
    inputs={
        "a": TensorSpec("a:0", DataType.DT_FLOAT, (-1, 2)),
        "b": TensorSpec("b:0", DataType.DT_INT64, None),
    },
    outputs={"y": TensorSpec("y:0", DataType.DT_FLOAT, (-1,)), "z": TensorSpec("z:0", DataType.DT_FLOAT, (-1,))},
    method_name="tensorflow/serving/predict",
)
A, B = np.zeros((3, 2), np.float32), np.zeros((), np.int64)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (
            {"a": A},
            (
                "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
                "Missing but required: {b}."
            ),
        ),
        (
            {"a": A, "b": B, "c": B},
            (
                "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra: {c}. "
                "Missing but required: {}."
            ),
        ),
        (
            {"a": A, "c": B},
            "input tensor alias not found in signature: c. Inputs expected to be in the set {a,b}.",
        ),
        ({"a": A, "b": B.astype(np.int32)}, "Expects arg[1] to be int64 but int32 is provided (input b)"),
        ({"a": A.astype(np.float64), "b": B}, "Expects arg[0] to be float but double is provided (input a)"),
        ({"a": np.array([["x", "y"]]), "b": B}, "Expects arg[0] to be float but string is provided (input a)"),
        (
            {"a": A[:, :1], "b": B},
            (
                "Incompatible shape for input a: the signature declares float [?, 2], "
                "but a tensor of shape [3, 1] is provided"
            ),
        ),
        (
            {"a": A[0], "b": B},
            (
                "Incompatible shape for input a: the signature declares float [?, 2], "
                "but a tensor of shape [2] is provided"
            ),
        ),
    ],
)
def test_inputs_that_do_not_fit_are_explained(inputs, says):
    with pytest.raises(RequestError) as caught:
        check_inputs(SIGNATURE, inputs)
    assert caught.value.message == says


def test_inputs_that_fit_pass():
    check_inputs(SIGNATURE, {"a": A, "b": B})
    check_inputs(SIGNATURE, {"a": A[:0], "b": np.zeros((1, 2, 3), np.int64)})


def test_outputs_come_in_the_order_asked_for():
    assert select_outputs(SIGNATURE, []) == ["y", "z"]
    assert select_outputs(SIGNATURE, ["z", "y"]) == ["z", "y"]
    for names, says in ((["x"], "alias not found in signature: x Outputs expected"), (["y", "y"], "duplicate output")):
        with pytest.raises(RequestError, match=says):
            select_outputs(SIGNATURE, names)
