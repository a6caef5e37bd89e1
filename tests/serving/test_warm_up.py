"""Warm-up records run through the model's own methods; a damaged file is named, and never believed."""

from __future__ import annotations

import io
import struct

import google_crc32c
import numpy as np
import pytest
from example_models import FunctionModel, example, examples_input, sorting_model
from hypothesis import given
from hypothesis import strategies as st

from sealserve.errors import ModelError
from sealserve.serving.tf_record import TfRecordError, read_records
from sealserve.serving.warm_up import MAX_RECORDS, WARM_UP_FILE, warm_up
from sealserve.wire.tensorflow_serving_pb2 import PredictionLog
from sealserve.wire.tensors import from_numpy


def masked(data):
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(*records):
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, masked(length), record, masked(record)]
    return b"".join(parts)


def files_of(*logs):
    return {WARM_UP_FILE: io.BytesIO(framed(*[log.SerializeToString() for log in logs]))}


def classify_log(signature="", **features):
    log = PredictionLog()
    log.classify_log.request.model_spec.signature_name = signature
    examples_input(log.classify_log.request.input, example(**features))
    return log


def regress_log():
    log = PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress"
    examples_input(log.regress_log.request.input, example(x=1))
    return log


NO_EXAMPLE = np.array([b""], object)


def predict_log(signature="", inputs=NO_EXAMPLE):
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs["inputs"].CopyFrom(from_numpy(inputs))
    return log


def multi_inference_log():
    log = PredictionLog()
    for signature, method in (("classify", "classify"), ("regress", "regress")):
        task = log.multi_inference_log.request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    examples_input(log.multi_inference_log.request.input, example(x=1))
    return log


def test_each_kind_of_record_runs_in_its_order():
    model = sorting_model()
    files = files_of(classify_log(), regress_log(), predict_log("classify"), multi_inference_log())
    assert warm_up(model, files) == 4
    assert model.asked == ["serving_default", "regress", "classify", "classify", "regress"]


def test_a_model_without_a_file_and_one_with_an_empty_file_are_not_warmed():
    assert warm_up(sorting_model(), {}) == 0
    assert warm_up(sorting_model(), files_of()) == 0


def test_a_record_without_a_request_is_passed_over_as_tensorflow_serving_does():
    model = sorting_model()
    assert warm_up(model, files_of(PredictionLog(), classify_log())) == 2
    assert model.asked == ["serving_default"]


def test_more_than_a_thousand_records_are_refused():
    log = predict_log("regress")
    assert warm_up(sorting_model(), files_of(*[log] * MAX_RECORDS)) == MAX_RECORDS
    with pytest.raises(ModelError, match=r"exceeds the maximum \(1000\)"):
        warm_up(sorting_model(), files_of(*[log] * (MAX_RECORDS + 1)))


@pytest.mark.parametrize(
    "log",
    [
        classify_log("other"),
        predict_log("other"),
        predict_log(inputs=np.zeros(1, np.float32)),
        b"\x2a\x00",
        b"\x3a\x00",
    ],
    ids=["no signature", "no signature to predict", "numbers", "session run", "stream"],
)
def test_a_record_that_cannot_be_answered_is_named(log):
    files = files_of(classify_log())
    data = log if isinstance(log, bytes) else log.SerializeToString()
    files[WARM_UP_FILE] = io.BytesIO(files[WARM_UP_FILE].getvalue() + framed(data))
    with pytest.raises(ModelError, match=f"{WARM_UP_FILE}: the model cannot answer record 2: "):
        warm_up(sorting_model(), files)


def test_a_record_that_is_no_log_is_named():
    with pytest.raises(ModelError, match="record 1 is no PredictionLog"):
        warm_up(sorting_model(), {WARM_UP_FILE: io.BytesIO(framed(b"\xff"))})


def test_a_damaged_file_is_refused_from_the_record_on_where_it_is_damaged():
    model = sorting_model()
    data = bytearray(framed(predict_log("classify").SerializeToString(), predict_log("regress").SerializeToString()))
    data[-5] ^= 1
    with pytest.raises(ModelError, match=f"{WARM_UP_FILE}: record 2 is damaged: its checksum does not fit"):
        warm_up(model, {WARM_UP_FILE: io.BytesIO(bytes(data))})
    assert model.asked == ["classify"]


def test_the_file_is_read_from_its_start_wherever_it_stands():
    files = files_of(classify_log())
    files[WARM_UP_FILE].seek(5)
    assert warm_up(sorting_model(), files) == 1


def test_what_the_model_raises_by_itself_is_not_hidden():
    def broken(inputs):
        raise ZeroDivisionError

    model = FunctionModel({"serving_default": broken}, {"serving_default": ["outputs"]})
    with pytest.raises(ZeroDivisionError):
        warm_up(model, files_of(predict_log()))


@given(st.lists(st.binary(), max_size=5))
def test_records_are_read_as_they_were_written(records):
    assert list(read_records(io.BytesIO(framed(*records)))) == records


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.data())
def test_a_flipped_bit_is_found(records, data):
    content = bytearray(framed(*records))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TfRecordError, match=r"record \d"):
        list(read_records(io.BytesIO(bytes(content))))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.data())
def test_a_file_that_is_cut_short_is_refused_unless_a_record_ends_there(records, data):
    ends = [len(framed(*records[:count])) for count in range(len(records) + 1)]
    cut = data.draw(st.integers(1, ends[-1] - 1))
    content = framed(*records)[:cut]
    if cut in ends:
        assert list(read_records(io.BytesIO(content))) == records[: ends.index(cut)]
        return
    with pytest.raises(TfRecordError, match="cut short"):
        list(read_records(io.BytesIO(content)))


@given(st.binary())
def test_any_bytes_are_read_or_refused(data):
    try:
        list(read_records(io.BytesIO(data)))
    except TfRecordError:
        return
    assert data == b""


def test_a_huge_declared_length_is_refused():
    length = struct.pack("<Q", 1 << 40)
    with pytest.raises(TfRecordError, match="too large"):
        list(read_records(io.BytesIO(length + masked(length))))


def test_tensorflow_writes_what_is_read_here(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "records"
    records = [b"", b"abc", bytes(100_000), classify_log(x=1).SerializeToString()]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    with path.open("rb") as file:
        assert list(read_records(file)) == records
