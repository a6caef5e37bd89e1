"""Requests that a model brings with it: run before it answers anybody, so that the first caller is served as the next.

They are in ``assets.extra/tf_serving_warmup_requests``, TFRecords of ``PredictionLog``
(https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from sealserve.errors import ModelError
from sealserve.serving.engine import DEFAULT_SIGNATURE, LoadedModel
from sealserve.serving.errors import RequestError
from sealserve.serving.examples import classify_with, multi_inference_with, regress_with
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.tf_record import TfRecordError, read_records
from sealserve.wire.tensorflow_serving_pb2 import PredictionLog, PredictRequest
from sealserve.wire.tensors import TensorError, to_numpy

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"

MAX_RECORDS = 1000
"""TensorFlow Serving's limit."""

_NOT_REPLAYED = {5: "session_run_log", 7: "predict_streamed_log"}  # fields of PredictionLog
_HINT = "Write the warm-up requests anew with TFRecordWriter, or remove the file."


def warm_up(loaded: LoadedModel, files: ModelFiles) -> int:
    """Run a model's own requests; what they answer is not looked at. The model's name in a request does not matter.

    :param files: those of the version.
    :returns: how many there were; 0 if the model brings none.
    :raises ModelError: a record is damaged, is no request or cannot be answered; or there are more than 1000.
    """
    file = files.get(WARM_UP_FILE)
    if file is None:
        return 0
    number = 0
    file.seek(0)
    try:
        for number, record in enumerate(read_records(file), 1):
            if number > MAX_RECORDS:
                raise ModelError(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {WARM_UP_FILE}",
                    hint="Keep the requests that differ in shape or signature: more of the same warm nothing.",
                )
            _replay(loaded, record, number)
    except TfRecordError as error:
        raise ModelError(f"{WARM_UP_FILE}: {error.message}", hint=_HINT) from error
    return number


def _replay(loaded: LoadedModel, record: bytes, number: int) -> None:
    try:
        log = PredictionLog.FromString(record)
    except DecodeError as error:
        raise ModelError(f"{WARM_UP_FILE}: record {number} is no PredictionLog", hint=_HINT) from error
    try:
        _run(loaded, log)
    except (RequestError, TensorError) as error:
        raise ModelError(
            f"{WARM_UP_FILE}: the model cannot answer record {number}: {error.message}", hint=_HINT
        ) from error


def _run(loaded: LoadedModel, log: PredictionLog) -> None:
    match log.WhichOneof("log_type"):
        case "predict_log":
            _predict(loaded, log.predict_log.request)
        case "classify_log":
            request = log.classify_log.request
            classify_with(loaded, request.input, signature=request.model_spec.signature_name)
        case "regress_log":
            other = log.regress_log.request
            regress_with(loaded, other.input, signature=other.model_spec.signature_name)
        case "multi_inference_log":
            multi_inference_with(loaded, log.multi_inference_log.request)
        case _:
            unknown = UnknownFieldSet(log)
            for number in (unknown[at].field_number for at in range(len(unknown))):
                if number in _NOT_REPLAYED:
                    raise RequestError(f"Unsupported log_type for warmup: {_NOT_REPLAYED[number]}")


def _predict(loaded: LoadedModel, request: PredictRequest) -> None:
    inputs = {name: to_numpy(tensor) for name, tensor in request.inputs.items()}
    loaded.predict(request.model_spec.signature_name or DEFAULT_SIGNATURE, inputs, list(request.output_filter))
