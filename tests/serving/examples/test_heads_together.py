"""MultiInference on heads of one graph: they run once, where they read the same tensor."""

from __future__ import annotations

import numpy as np
import pytest
from example_models import examples_input
from serving_models import load

from sealserve.serving.errors import RequestError
from sealserve.serving.examples import multi_inference_with
from sealserve.serving.process.loading import _Timed
from sealserve.wire.tensorflow_pb2 import Example
from sealserve.wire.tensorflow_serving_pb2 import MultiInferenceRequest

tf = pytest.importorskip("tensorflow")
engines = pytest.importorskip("sealserve.serving.engines")


def heads(directory, *, apart=False):
    """Classifies and regresses by a number that is drawn anew in each run; ``apart`` with an input for each head."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = [v1.placeholder(tf.string, [None], name=name) for name in ("one", "other")]
        drawn = tf.random.uniform(tf.shape(inputs[0]))
        again = drawn if not apart else tf.random.uniform(tf.shape(inputs[1]))
        info = v1.saved_model.build_tensor_info
        signatures = {
            "classify": v1.saved_model.build_signature_def(
                {"inputs": info(inputs[0])}, {"scores": info(tf.stack([drawn, 1 - drawn], 1))}, "classify"
            ),
            "regress": v1.saved_model.build_signature_def(
                {"inputs": info(inputs[1 if apart else 0])}, {"outputs": info(tf.identity(again))}, "regress"
            ),
        }
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    return directory


def asked(model):
    request = MultiInferenceRequest()
    examples_input(request.input, *[Example()] * 5)
    for name in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{name}")
        task.model_spec.name, task.model_spec.signature_name = "heads", name
    classified, regressed = multi_inference_with(model, request).results
    scores = [one.classes[0].score for one in classified.classification_result.classifications]
    return np.array(scores), np.array([one.value for one in regressed.regression_result.regressions])


def test_heads_of_one_input_run_once(tmp_path):
    model = load(engines.create_engine("tensorflow"), heads(tmp_path / "1"))
    scores, values = asked(model)
    assert len(scores) == 5
    assert np.array_equal(scores, values)
    again, _ = asked(model)
    assert not np.array_equal(scores, again)
    model.close()


def test_heads_run_once_in_a_serving_process_too(tmp_path):
    timed = []
    model = _Timed(load(engines.create_engine("tensorflow"), heads(tmp_path / "1")), timed.append)
    scores, values = asked(model)
    assert np.array_equal(scores, values)
    assert len(timed) == 1
    model.close()


def test_heads_of_several_inputs_run_one_after_the_other(tmp_path):
    model = load(engines.create_engine("tensorflow"), heads(tmp_path / "1", apart=True))
    assert model.predict_together({"classify": [], "regress": []}, {"inputs": np.array([b""], object)}) is None
    scores, values = asked(model)
    assert len(scores) == len(values) == 5
    assert not np.array_equal(scores, values)
    model.close()


def test_what_one_head_refuses_is_refused_before_anything_runs(tmp_path):
    model = load(engines.create_engine("tensorflow"), heads(tmp_path / "1"))
    with pytest.raises(RequestError, match="output tensor alias not found in signature: missing"):
        model.predict_together({"classify": [], "regress": ["missing"]}, {"inputs": np.array([b""], object)})
    model.close()
