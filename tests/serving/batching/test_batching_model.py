"""What callers see of batches, and what the model sees of callers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from batching_models import Callers, Doubling, rows, until
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.serving.batching import BatchingModel, BatchingParameters, BatchSlots
from sealserve.serving.engine import Waiting
from sealserve.serving.errors import CallerGoneError, RequestError


@pytest.fixture
def callers():
    started = []

    def start(inner, slots=None, **parameters):
        started.append(
            (Callers(BatchingModel(inner, BatchingParameters(**{"num_batch_threads": 1} | parameters), slots)), inner)
        )
        return started[-1][0]

    yield start
    for one, inner in started:
        inner.open.set()
        one.close()


def waiting(model, number):
    """Until so many requests are in the model."""
    until(lambda: model._requests == number)
    until(lambda: sum(len(b.tasks) for q in model._queues.values() for b in q._batches) >= number - 1)


def test_requests_that_come_while_the_model_is_busy_run_together_and_each_gets_its_own(callers):
    inner = Doubling()
    ask = callers(inner)
    first = ask.hold(inner)
    others = [ask.ask(rows(*range(number, 2 * number))) for number in range(1, 9)]
    waiting(ask.model, 9)
    inner.open.set()
    assert first.result()["y"].tolist() == [[0]]
    for number, other in enumerate(others, 1):
        assert other.result()["y"].tolist() == (2 * rows(*range(number, 2 * number))).tolist()
        assert other.result()["z"].tolist() == (3 * rows(*range(number, 2 * number))).tolist()
    assert [len(x) for x, _ in inner.runs] == [1, 36]


def test_a_request_alone_does_not_wait_and_its_input_is_not_copied(callers):
    seen = []
    inner = Doubling(answer=lambda x: {"y": x})
    model = callers(inner).model
    inner.predict = lambda signature, inputs, *args, **kwargs: (
        seen.append(inputs["x"]) or {"y": inputs["x"], "z": inputs["x"]}
    )
    x = rows(1, 2)
    assert model.predict("serving_default", {"x": x})["y"].tolist() == [[1], [2]]
    assert seen[0] is x


def test_a_batch_waits_for_its_timeout_and_not_when_it_is_full(callers):
    inner = Doubling()
    ask = callers(inner, max_batch_size=3, batch_timeout_micros=10_000_000)
    answers = [ask.ask(rows(number)) for number in range(3)]
    assert [answer.result(5)["y"].item() for answer in answers] == [0, 2, 4]
    assert [len(x) for x, _ in inner.runs] == [3]
    ask = callers(inner, max_batch_size=3, batch_timeout_micros=1000)
    assert ask.ask(rows(7)).result(5)["y"].item() == 14


def test_a_batch_is_filled_up_and_nobody_gets_what_fills_it(callers):
    inner = Doubling()
    ask = callers(inner, max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    ask.hold(inner)
    others = [ask.ask(rows(number, 10 * number)) for number in (1, 2, 3)]
    waiting(ask.model, 4)
    inner.open.set()
    assert [other.result()["y"].ravel().tolist() for other in others] == [[2, 20], [4, 40], [6, 60]]
    x = inner.runs[1][0].ravel().tolist()
    assert len(x) == 8
    assert x[6:] == [x[4]] * 2


def test_filling_up_never_takes_more_memory_than_a_bound(callers):
    inner = Doubling(-1, -1, answer=lambda x: {"y": x[:, :1], "z": x[:, :1]})
    model = callers(inner, max_batch_size=1000, allowed_batch_sizes=(1000,)).model
    model.predict("serving_default", {"x": np.ones((1, 100_000), np.float32)})
    assert inner.runs[0][0].shape == (1, 100_000)


def test_rows_of_other_shapes_are_not_mixed(callers):
    inner = Doubling()
    ask = callers(inner)
    ask.hold(inner)
    others = [ask.ask(rows(number, width=width)) for number, width in ((1, 1), (2, 2), (3, 1), (4, 2))]
    waiting(ask.model, 5)
    inner.open.set()
    assert [other.result()["y"].shape for other in others] == [(1, 1), (1, 2), (1, 1), (1, 2)]
    assert sorted(x.shape for x, _ in inner.runs[1:]) == [(2, 1), (2, 2)]


def test_inputs_of_different_lengths_are_filled_up_with_their_first_element_if_asked(callers):
    inner = Doubling()
    ask = callers(inner, pad_variable_length_inputs=True)
    ask.hold(inner)
    others = [ask.ask(np.array([row], np.float32)) for row in ([1, 2], [3], [4, 5, 6])]
    waiting(ask.model, 4)
    inner.open.set()
    assert sorted(other.result()["y"].tolist() for other in others) == [[[2, 4, 2]], [[6, 6, 6]], [[8, 10, 12]]]
    assert len(inner.runs) == 2


def test_one_long_row_does_not_make_all_others_as_long(callers):
    inner = Doubling(answer=lambda x: {"y": x[:, :1], "z": x[:, :1]})
    ask = callers(inner, pad_variable_length_inputs=True)
    ask.hold(inner)
    long = ask.ask(np.ones((1, 1_000_000), np.float32))
    waiting(ask.model, 2)
    short = [ask.ask(rows(*range(1, 11))) for _ in range(5)]
    waiting(ask.model, 7)
    inner.open.set()
    assert long.result()["y"].item() == 1
    assert all(len(other.result()["y"]) == 10 for other in short)
    assert sum(x.nbytes for x, _ in inner.runs) < 100 << 20


def test_other_outputs_are_another_queue_and_come_in_the_order_asked_for(callers):
    inner = Doubling()
    ask = callers(inner)
    ask.hold(inner)
    asked = [["y"], ["z"], ["z", "y"], ["y", "z"]]
    others = [ask.ask(rows(1), names) for names in asked]
    waiting(ask.model, 5)
    inner.open.set()
    assert [list(other.result()) for other in others] == asked
    assert [len(x) for x, _ in inner.runs[1:]] in ([1, 1, 2], [1, 2, 1], [2, 1, 1])


def test_one_bad_request_does_not_fail_the_others(callers):
    inner = Doubling()
    ask = callers(inner)
    ask.hold(inner)
    others = [ask.ask(rows(number)) for number in (1, -2, 3, -4)]
    waiting(ask.model, 5)
    inner.open.set()
    assert others[0].result()["y"].item() == 2
    assert others[2].result()["y"].item() == 6
    for bad, number in ((others[1], -2), (others[3], -4)):
        with pytest.raises(RequestError, match=f"a negative number: {number}"):
            bad.result()


def test_what_does_not_fit_the_signature_never_comes_into_a_batch(callers):
    inner = Doubling()
    model = callers(inner, max_batch_size=4).model
    for x, message in (
        (np.ones((1, 1)), "Expects arg"),
        (np.ones(1, np.float32), "Incompatible shape"),
        (rows(1, 2, 3, 4, 5), "Task size 5 is larger than maximum input batch size 4"),
    ):
        with pytest.raises(RequestError, match=message):
            model.predict("serving_default", {"x": x})
    with pytest.raises(RequestError, match="duplicate output"):
        model.predict("serving_default", {"x": rows(1)}, ["y", "y"])
    with pytest.raises(RequestError, match="no such signature"):
        model.predict("other", {"x": rows(1)})
    assert not inner.runs


def test_inputs_without_a_common_batch_are_refused_as_tensorflow_serving_does(callers):
    from sealserve.serving.batching.merging import batch_size

    one = np.ones(1)
    for inputs, message in (
        ({}, "must have at least one input tensor"),
        ({"a": np.ones(())}, "must have at least one dimension"),
        ({"a": one, "b": np.ones(2)}, "must have equal 0th-dimension size"),
    ):
        with pytest.raises(RequestError, match=message):
            batch_size(inputs)
    assert batch_size({"a": one, "b": one}) == 1


@pytest.mark.parametrize(
    ("answer", "declared", "message", "runs"),
    [
        (lambda x: {"y": np.float32(1) + np.zeros((), np.float32)}, (), "has 0 dimensions", 0),
        (lambda x: {"y": np.zeros((), np.float32)}, None, "has 0 dimensions", 1),
        (lambda x: {"y": np.zeros(3, np.float32)}, None, "does not equal the sum of the 0th dimension sizes", 1),
    ],
)
def test_answers_that_cannot_be_divided_are_refused(callers, answer, declared, message, runs):
    inner = Doubling(-1, -1, answer=answer, y=(-1,))
    inner.signatures["serving_default"].outputs["y"] = type(
        next(iter(inner.signatures["serving_default"].inputs.values()))
    )("y:0", 1, declared)
    with pytest.raises(RequestError, match=message) as caught:
        callers(inner).model.predict("serving_default", {"x": rows(1, 2)})
    assert caught.value.code == "FAILED_PRECONDITION"
    assert len(inner.runs) == runs


def test_a_signature_of_fixed_size_and_empty_inputs_run_as_they_come(callers):
    inner = Doubling(1, 1)
    assert callers(inner).model.predict("serving_default", {"x": rows(4)})["y"].item() == 8
    inner = Doubling()
    assert callers(inner).model.predict("serving_default", {"x": np.zeros((0, 2), np.float32)})["y"].shape == (0, 2)


def test_callers_that_are_gone_are_taken_out_before_the_run(callers):
    inner, gone = Doubling(), threading.Event()
    ask = callers(inner)
    ask.hold(inner)
    leaver = ask.ask(rows(1), wanted=lambda: not gone.is_set())  # it began the batch, and runs it all the same
    waiting(ask.model, 2)
    second = ask.ask(rows(2), wanted=lambda: not gone.is_set())
    waiting(ask.model, 3)
    stays = ask.ask(rows(3))
    waiting(ask.model, 4)
    gone.set()
    with pytest.raises(CallerGoneError):
        second.result(5)
    inner.open.set()
    assert stays.result()["y"].item() == 6
    with pytest.raises(CallerGoneError):
        leaver.result()
    assert [x.ravel().tolist() for x, _ in inner.runs] == [[0], [3]]


def test_nothing_runs_when_all_callers_of_a_batch_are_gone(callers):
    inner = Doubling()
    ask = callers(inner)
    with pytest.raises(CallerGoneError):
        ask.model.predict("serving_default", {"x": rows(1)}, wanted=lambda: False)
    assert not inner.runs


def test_a_batch_is_wanted_as_long_as_by_its_most_patient_caller(callers):
    inner, left = Doubling(), {1: 5.0, 2: 9.0}
    ask = callers(inner)
    ask.hold(inner)
    others = [ask.ask(rows(n), wanted=Waiting(lambda: True, lambda n=n: left[n])) for n in (1, 2)]
    waiting(ask.model, 3)
    inner.open.set()
    assert [other.result()["y"].item() for other in others] == [2, 4]
    wanted = inner.runs[1][1]
    assert wanted()
    assert wanted.seconds_left() == 9.0


def test_a_full_queue_is_unavailable_and_those_in_it_are_answered(callers):
    inner = Doubling()
    ask = callers(inner, max_batch_size=2, max_enqueued_batches=2)
    ask.hold(inner)
    others = []
    for number in range(4):
        others.append(ask.ask(rows(number)))
        waiting(ask.model, number + 2)
    with pytest.raises(RequestError, match="is full; currently 2 batches enqueued and max_enqueued_batches is 2") as e:
        ask.model.predict("serving_default", {"x": rows(9)})
    assert e.value.code == "UNAVAILABLE"
    inner.open.set()
    assert [other.result()["y"].item() for other in others] == [0, 2, 4, 6]


def test_large_requests_are_divided_if_asked(callers):
    inner = Doubling()
    ask = callers(
        inner, max_batch_size=10, enable_large_batch_splitting=True, max_execution_batch_size=4, max_enqueued_batches=3
    )
    ask.hold(inner)
    small = ask.ask(rows(100))
    waiting(ask.model, 2)
    large = ask.ask(rows(*range(9)))
    waiting(ask.model, 3)
    with pytest.raises(RequestError, match="task size is 3 but scheduling capacity is only 2") as caught:
        ask.model.predict("serving_default", {"x": rows(1, 2, 3)})
    assert caught.value.code == "UNAVAILABLE"
    inner.open.set()
    assert small.result()["y"].item() == 200
    assert large.result()["y"].ravel().tolist() == [2 * n for n in range(9)]
    assert sorted(len(x) for x, _ in inner.runs) == [1, 2, 4, 4]


def test_parts_of_a_request_are_not_filled_up_with_others(callers):
    inner = Doubling()
    ask = callers(
        inner,
        max_batch_size=10,
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
    )
    ask.hold(inner)
    wide = ask.ask(rows(100, width=3))
    waiting(ask.model, 2)
    large = ask.ask(rows(*range(9)))
    waiting(ask.model, 3)
    inner.open.set()
    assert wide.result()["y"].tolist() == [[200] * 3]
    assert large.result()["y"].ravel().tolist() == [2 * n for n in range(9)]


def test_close_waits_for_those_in_flight(callers):
    inner = Doubling()
    ask = callers(inner)
    first = ask.hold(inner)
    closing = threading.Thread(target=ask.model.close)
    closing.start()
    closing.join(0.05)
    assert not inner.closed
    inner.open.set()
    closing.join(20)
    assert first.done()
    assert inner.closed == 1


def test_models_that_share_slots_take_turns(callers):
    slots, order = BatchSlots(1), []
    turns = [threading.Event() for _ in range(5)]

    def take(queue, number):
        slots.acquire(queue)
        order.append((queue, number))
        turns[number].wait(20)
        slots.release()

    with ThreadPoolExecutor(5) as pool:
        for number, queue in enumerate("aaaab"):
            pool.submit(take, queue, number)
            until(lambda number=number: sum(map(len, slots._waiting.values())) == number)
        for turn in turns:
            turn.set()
    assert order == [("a", 0), ("a", 1), ("b", 4), ("a", 2), ("a", 3)]
    assert slots._free == 1


def test_many_choices_of_outputs_do_not_pile_up(callers, monkeypatch):
    monkeypatch.setattr("sealserve.serving.batching.model._MOST_QUEUES", 2)
    model = callers(Doubling()).model
    for names in (["y"], ["z"], ["y", "z"], ["z"]):
        assert model.predict("serving_default", {"x": rows(1)}, names)
    assert len(model._queues) <= 2


@settings(deadline=None, max_examples=25)
@given(
    requests=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3), st.booleans()), min_size=1, max_size=40),
    splitting=st.booleans(),
    padding=st.booleans(),
    timeout=st.sampled_from([0, 200]),
)
def test_whatever_comes_together_each_gets_its_own_or_an_error_of_its_own(requests, splitting, padding, timeout):
    inner = Doubling()
    parameters = BatchingParameters(
        8,
        timeout,
        1000,
        2,
        (2, 8),
        pad_variable_length_inputs=padding,
        enable_large_batch_splitting=splitting,
        max_execution_batch_size=4 if splitting else None,
    )
    ask = Callers(BatchingModel(inner, parameters))
    sent = [
        np.full((count, width), -(number + 1) if bad else number + 1, np.float32)
        for number, (count, width, bad) in enumerate(requests)
    ]
    for x, answer in [(x, ask.ask(x)) for x in sent]:
        if len(x) > 8:
            with pytest.raises(RequestError, match="Task size 9"):
                answer.result(20)
        elif x.size and x[0, 0] < 0:
            with pytest.raises(RequestError, match=f"a negative number: {x[0, 0]}"):
                answer.result(20)
        else:
            y = answer.result(20)["y"]
            assert y.shape[0] == x.shape[0]
            assert np.all(y[:, : x.shape[1]] == x * 2)
    ask.close()
