"""Requests whose input is a list of tf.Examples: classify, regress, and several of both at once.

Behaviour and messages follow TensorFlow Serving's ``classifier.cc``, ``regressor.cc`` and ``multi_inference.cc``
(``tensorflow_serving/servables/tensorflow/``). gRPC and REST use the same functions.
"""

from sealserve.serving.examples.classification import classify, classify_with
from sealserve.serving.examples.input import Input
from sealserve.serving.examples.multi_inference import multi_inference, multi_inference_with
from sealserve.serving.examples.regression import regress, regress_with

__all__ = ["Input", "classify", "classify_with", "multi_inference", "multi_inference_with", "regress", "regress_with"]
