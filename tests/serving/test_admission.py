"""What is counted and bounded, without a network; with one: ``test_strangers.py``."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from sealserve.errors import InputError
from sealserve.serving import admission as admission_module
from sealserve.serving.admission import Admission
from sealserve.serving.errors import CallerGoneError, NoMessageError, OverloadedError, StoppingError
from sealserve.serving.limits import Limits
from sealserve.serving.load import Load
from sealserve.threads import RequestThreads


class Call:
    """A request and its context. Its message comes when it is let, or never."""

    def __init__(self, *messages, metadata=(), peer="ipv4:127.0.0.1:1"):
        self._messages, self._metadata, self._peer = messages, metadata, peer
        self.cancelled, self.come, self.callbacks = threading.Event(), threading.Event(), []

    def cancel(self):
        self.cancelled.set()
        self.come.set()

    def is_active(self):
        return not self.cancelled.is_set()

    def add_callback(self, callback):
        if self.cancelled.is_set():
            return False
        self.callbacks.append(callback)
        return True

    def peer(self):
        return self._peer

    def invocation_metadata(self):
        return self._metadata

    def messages(self):
        self.come.wait(20)
        if self.cancelled.is_set():
            raise grpc.RpcError
        yield from self._messages


def begin(admission, call):
    """Receive in a thread; gives the thread and where its outcome will be."""
    outcome = []

    def receive():
        try:
            outcome.append(admission.receive(call.messages(), call))
        except (grpc.RpcError, NoMessageError) as error:
            outcome.append(type(error))

    thread = threading.Thread(target=receive)
    waiting = len(admission._receiving)
    thread.start()
    while len(admission._receiving) == waiting and thread.is_alive() and waiting < admission._limits.receiving:
        time.sleep(0.001)
    return thread, outcome


def test_the_one_that_waits_longest_goes_for_a_new_one():
    admission, calls = Admission(Limits(receiving=2)), [Call(b"a"), Call(b"b"), Call(b"c")]
    begun = [begin(admission, call) for call in calls]
    begun[0][0].join(20)
    assert [call.cancelled.is_set() for call in calls] == [True, False, False]
    for call in calls[1:]:
        call.come.set()
    for thread, _ in begun:
        thread.join(20)
    assert [outcome for _, outcome in begun] == [[grpc.RpcError], [b"b"], [b"c"]]


def test_the_connection_with_most_loses_its_oldest_and_others_none():
    admission = Admission(Limits(receiving=4))
    honest = Call(b"a", peer="ipv4:127.0.0.1:2")
    strangers = [Call(b"b", peer=f"ipv4:127.0.0.1:{number}") for number in (3, 3, 4, 4, 5)]
    begun = [begin(admission, call) for call in (honest, *strangers)]
    assert not honest.cancelled.is_set()
    assert [call.cancelled.is_set() for call in strangers] == [True, False, True, False, False]
    assert admission._peers.keys() == admission._receiving.keys()
    for call in (honest, *strangers):
        call.come.set()
    for thread, _ in begun:
        thread.join(20)
    assert begun[0][1] == [b"a"]
    assert not admission._peers


def test_late_messages_are_not_waited_for_and_early_ones_are():
    admission, call = Admission(Limits(receive_seconds=1000)), Call(b"a")
    thread, outcome = begin(admission, call)
    admission.look()
    assert not call.cancelled.is_set()
    admission._receiving[call] -= 2000
    admission.look()
    thread.join(20)
    assert outcome == [grpc.RpcError]


def test_when_memory_is_short_slow_messages_go_and_new_ones_stay(monkeypatch):
    heap = [100]
    monkeypatch.setattr(admission_module, "give_back", lambda: None)
    admission = Admission(Limits(message_bytes=10, buffered_bytes=10), heap_bytes=lambda: heap[0])
    admission.look()
    heap[0] = 1000  # a model was loaded, say: nobody waits
    admission.look()
    admission.look()
    slow, new = Call(), Call()
    begun = [begin(admission, call) for call in (slow, new)]
    admission._receiving[slow] -= 1
    admission._receiving[new] += 1000
    heap[0] = 1010
    admission.look()
    assert not slow.cancelled.is_set()
    heap[0] = 1011
    admission.look()
    assert slow.cancelled.is_set()
    assert not new.cancelled.is_set()
    new.cancel()
    for thread, _ in begun:
        thread.join(20)


def test_memory_that_stays_when_all_slow_messages_are_gone_is_not_that_of_messages(monkeypatch):
    heap = [100]
    monkeypatch.setattr(admission_module, "give_back", lambda: None)
    admission = Admission(Limits(message_bytes=10, buffered_bytes=10), heap_bytes=lambda: heap[0])
    admission.look()

    def upload_goes():
        """Somebody is always waited for."""
        call = Call()
        admission._receiving[call] = time.monotonic() - 1
        admission.look()
        admission._receiving.clear()
        return call.cancelled.is_set()

    assert not upload_goes()
    heap[0] = 1000  # a model was loaded
    assert upload_goes()
    heap[0] = 1005
    cancelled = [upload_goes() for _ in range(20)]
    assert cancelled == [True] * admission_module._PATIENCE + [False] * (20 - admission_module._PATIENCE)
    heap[0] = 1011  # against what was there at the lowest
    assert upload_goes()


def test_a_request_without_a_message_and_large_headers_are_refused():
    call = Call()
    call.come.set()
    with pytest.raises(NoMessageError):
        Admission(Limits()).receive(call.messages(), call)
    with pytest.raises(OverloadedError, match="headers"):
        Admission(Limits(header_bytes=10)).receive(iter([b"a"]), Call(metadata=[("key", "01234567")]))


def test_work_is_bounded_by_number_and_by_bytes_and_given_back():
    admission = Admission(Limits(working=2, message_bytes=10, buffered_bytes=10))
    with admission.work(Call(), 6), pytest.raises(OverloadedError), admission.work(Call(), 5):
        pass
    with pytest.raises(RuntimeError), admission.work(Call(), 10):
        raise RuntimeError
    with admission.work(Call(), 1), admission.work(Call(), 1):
        with pytest.raises(OverloadedError), admission.work(Call(), 1):
            pass
        assert admission.load == Load(working=2, most=2, refused=2)
        gone = Call()
        gone.cancel()
        with pytest.raises(CallerGoneError), admission.work(gone, 1):
            pass
    with admission.work(Call(), 10):
        pass
    with admission.work(Call(), 11), pytest.raises(OverloadedError), admission.work(Call(), 1):
        pass  # the largest message, with its fields, has a place alone
    assert admission._bytes == 0


def test_answers_are_counted_until_they_are_fetched_and_the_oldest_goes_for_a_new_one():
    admission = Admission(Limits(message_bytes=10, buffered_bytes=10))
    first, second, third, gone = Call(), Call(), Call(), Call()
    gone.cancel()
    admission.answer(first, 6)
    admission.answer(second, 4)
    admission.answer(gone, 1)
    assert not first.cancelled.is_set()
    admission.answer(third, 1)
    assert [call.cancelled.is_set() for call in (first, second, third)] == [True, False, False]
    for callback in (*first.callbacks, *second.callbacks, *third.callbacks):  # grpcio says that they ended
        callback()
    with admission.work(Call(), 10):
        pass


def test_an_answer_that_nobody_fetches_ends():
    admission, call = Admission(Limits(answer_seconds=1000)), Call()
    admission.answer(call, 6)
    admission.look()
    assert not call.cancelled.is_set()
    since, size = admission._answering[call]
    admission._answering[call] = (since - 2000, size)
    admission.look()
    assert call.cancelled.is_set()
    assert admission._bytes == 0


@pytest.mark.parametrize("limits", [{"working": 0}, {"receive_seconds": -1}, {"message_bytes": 2, "buffered_bytes": 1}])
def test_limits_that_bound_nothing_are_refused(limits):
    with pytest.raises(InputError):
        Limits(**limits)


def test_threads_are_started_when_needed_and_the_last_busy_one_is_taken_first():
    threads = RequestThreads(4)
    names = set()
    for _ in range(20):
        while not threads._idle:  # a thread is idle a moment after its result is there
            time.sleep(0.001)
        names.add(threads.submit(lambda: threading.current_thread().name).result(20))
    assert len(names) == 1
    together = threading.Barrier(4)
    futures = [threads.submit(together.wait, 20) for _ in range(4)]
    assert {future.result(20) for future in futures} == {0, 1, 2, 3}
    threads.shutdown()


def test_calls_wait_where_the_system_has_no_more_threads(monkeypatch):
    threads = RequestThreads(4)
    begun, go_on = threading.Event(), threading.Event()
    first = threads.submit(lambda: begun.set() or go_on.wait(20))
    assert begun.wait(20)

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = threads.submit(lambda: "answered")
    assert not second.done()
    go_on.set()
    assert first.result(20)
    assert second.result(20) == "answered"
    threads.shutdown()


def test_what_a_call_raises_is_its_futures_own():
    threads = RequestThreads(1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(20)
    assert threads.submit(lambda: 1).result(20) == 1
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 1)


def test_who_asks_while_the_server_stops_is_told_so():
    admission, call = Admission(Limits()), Call(b"a")
    call.come.set()
    assert admission.receive(call.messages(), call) == b"a"
    admission.close()
    with pytest.raises(StoppingError, match="stopping"):
        admission.work(call, 1)
    assert StoppingError.code == "UNAVAILABLE"


def test_a_server_that_stops_waits_for_a_moment_without_new_requests_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(admission_module, "_QUIET", 0.2)
    monkeypatch.setattr(admission_module, "_MOST_QUIET", 0.6)
    admission, done = Admission(Limits()), threading.Event()

    def keep_asking():
        while not done.is_set():
            call = Call(b"a")
            call.come.set()
            admission.receive(call.messages(), call)
            time.sleep(0.01)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        started = time.monotonic()
        admission.close()
        assert 0.5 < time.monotonic() - started < 5
    finally:
        done.set()
        asking.join()
    idle = Admission(Limits())
    started = time.monotonic()
    idle.close()
    assert time.monotonic() - started < 0.1
