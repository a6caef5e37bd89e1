"""TensorFlow Serving's REST API: predict, classify, regress, status and metadata of models."""

from __future__ import annotations

from collections.abc import Callable

from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.engine import DEFAULT_SIGNATURE
from sealserve.serving.examples import classify, regress
from sealserve.serving.rest import answers
from sealserve.serving.rest.examples import read_examples
from sealserve.serving.rest.json_text import Take
from sealserve.serving.rest.paths import find_target
from sealserve.serving.rest.predict_request import Types, missing_signature, read_predict
from sealserve.serving.rest.work import MODEL_VERSION, Call, Reply, Work
from sealserve.wire.tensorflow_serving_pb2 import Input

PREFIX = "/v1/"

_OPERATIONS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}


class TensorFlowApi:
    """Requests to the models of a data plane."""

    def __init__(self, core: ModelServer) -> None:
        self._core = core

    def find(self, call: Call) -> Work:
        """What is to be done. :raises RequestError: nobody knows."""
        target = find_target(call.method, call.path)
        call.model = target.choice.name
        call.operation = _OPERATIONS.get(target.what, "")
        choice = target.choice
        match target.what:
            case "predict":
                return Work(lambda body, wanted, take: self._predict(choice, body, wanted, take))
            case "classify":
                return Work(lambda body, wanted, take: self._classify(choice, body, wanted, take))
            case "regress":
                return Work(lambda body, wanted, take: self._regress(choice, body, wanted, take))
            case "metadata":
                return Work(lambda *_: self._metadata(choice), has_body=False, beside=True)
            case _:
                return Work(
                    lambda *_: Reply(answers.status_body(self._core.status(choice))), has_body=False, beside=True
                )

    def _predict(self, choice: ModelChoice, body: bytes, wanted: Callable[[], bool], take: Take) -> Reply:
        request = read_predict(body, lambda signature: self._types(choice, signature), take=take)
        answer = self._core.predict(choice, request.inputs, signature=request.signature, wanted=wanted)
        return _reply(answers.predict_body(answer.outputs, request.format), answer.version)

    def _classify(self, choice: ModelChoice, body: bytes, wanted: Callable[[], bool], take: Take) -> Reply:
        signature, given = _read_examples(body, take)
        answer = classify(self._core, choice, given, signature=signature, wanted=wanted)
        return _reply(answers.classify_body(answer), answer.model_spec.version.value)

    def _regress(self, choice: ModelChoice, body: bytes, wanted: Callable[[], bool], take: Take) -> Reply:
        signature, given = _read_examples(body, take)
        answer = regress(self._core, choice, given, signature=signature, wanted=wanted)
        return _reply(answers.regress_body(answer), answer.model_spec.version.value)

    def _metadata(self, choice: ModelChoice) -> Reply:
        return Reply(answers.metadata_body(choice.name, *self._core.metadata(choice)))

    def _types(self, choice: ModelChoice, signature: str) -> Types:
        definition = self._core.metadata(choice)[1].get(signature or DEFAULT_SIGNATURE)
        if definition is None:
            raise missing_signature(signature)
        return {name: info.dtype for name, info in definition.inputs.items()}


def _reply(body: bytes, version: int) -> Reply:
    return Reply(body, headers={MODEL_VERSION: str(version)})


def _read_examples(body: bytes, take: Take) -> tuple[str, Input]:
    signature, given = read_examples(body, take=take)
    together = given.example_list_with_context
    # The context goes into every example.
    take(together.context.ByteSize() * len(together.examples))
    return signature, given
