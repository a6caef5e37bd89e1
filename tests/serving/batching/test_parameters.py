from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.errors import ConfigurationError
from sealserve.serving.batching import BatchingParameters


def test_what_the_file_does_not_say_has_tensorflow_servings_default():
    read = BatchingParameters.from_text("")
    assert (read.max_batch_size, read.batch_timeout_micros, read.max_enqueued_batches) == (1000, 0, 10)
    assert read.num_batch_threads >= 1
    assert read.execution_size == 1000
    assert read.allowed_batch_sizes == ()


def test_tensorflow_servings_own_file_is_read():
    text = """max_batch_size { value: 128 }
        batch_timeout_micros { value: 0 } max_enqueued_batches { value: 1000000 } num_batch_threads { value: 8 }
        thread_pool_name { value: "pool" } allowed_batch_sizes: 4 allowed_batch_sizes: 128 # both
        pad_variable_length_inputs: true enable_large_batch_splitting { value: true }
        max_execution_batch_size { value: 64 }"""
    assert BatchingParameters.from_text(text) == BatchingParameters(128, 0, 1000000, 8, (4, 128), True, True, 64)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("num_batch_threads { value: -1 }", "num_batch_threads must be positive; was -1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be at least 0"),
        ("allowed_batch_sizes: 4", "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 4]", "allowed_batch_sizes must be positive and in incr"),
        (
            "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 2000 }",
            "max_execution_batch_size must not be above",
        ),
        ("max_batch_size: 4", "max_batch_size"),
        ("max_batch_sise { value: 4 }", "max_batch_sise"),
        ("max_batch_size {", "batching.txt: "),
    ],
)
def test_an_error_names_the_field_and_the_file(text, named):
    with pytest.raises(ConfigurationError) as caught:
        BatchingParameters.from_text(text, source="batching.txt")
    assert named in caught.value.message
    assert caught.value.message.startswith("batching.txt: ")
    assert caught.value.hint


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigurationError):
        assert BatchingParameters.from_text(text).execution_size > 0


def test_a_batch_is_filled_up_to_the_next_allowed_size():
    parameters = BatchingParameters(8, allowed_batch_sizes=(1, 4, 8))
    assert [parameters.padded_size(rows) for rows in (1, 2, 4, 5, 8)] == [1, 4, 4, 8, 8]
    assert BatchingParameters(8).padded_size(3) == 3
