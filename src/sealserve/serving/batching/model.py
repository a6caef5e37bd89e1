"""A model that answers several requests at once.

Source of the behaviour: ``batching_session.cc`` of TensorFlow Serving. One thing differs: there, a batch that fails
gives its error to all its callers; here they are answered one by one then, so that none has another's error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sealserve.serving.batching.errors import NoBatchDimensionError
from sealserve.serving.batching.merging import MOST_PADDING, batch_size, check_outputs, merge, row_bytes
from sealserve.serving.batching.parameters import BatchingParameters
from sealserve.serving.batching.queue import Batch, BatchQueue, Task, check_size
from sealserve.serving.batching.slots import BatchSlots
from sealserve.serving.checks import check_inputs, select_outputs
from sealserve.serving.engine import Array, LoadedModel, Signature, Waiting, always
from sealserve.serving.errors import CallerGoneError
from sealserve.wire.tensorflow_pb2 import SignatureDef

_LOOK = 0.05  # seconds between two looks at whether the caller is still there
_MOST_QUEUES = 256  # that are kept while they are empty

_Key = tuple[str, tuple[str, ...]]


class BatchingModel:
    """Implements :class:`LoadedModel` in front of another.

    Inputs and outputs have the batch as their first dimension. A signature that declares a size for the first
    dimension of an input cannot be batched: its requests run as they come.

    :param loaded: the model; closed with this one.
    :param slots: shared with other models, so that together they run ``num_batch_threads`` batches at once.
    """

    def __init__(self, loaded: LoadedModel, parameters: BatchingParameters, slots: BatchSlots | None = None) -> None:
        self._loaded = loaded
        self._parameters = parameters
        self._slots = slots or BatchSlots(parameters.num_batch_threads)
        self._lock = threading.Lock()
        self._queues: dict[_Key, BatchQueue] = {}
        self._requests = 0
        self._idle = threading.Condition(self._lock)

    @property
    def platform(self) -> str:
        """That of the model."""
        return self._loaded.platform

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those of the model."""
        return self._loaded.signatures

    @property
    def signature_definitions(self) -> Mapping[str, SignatureDef]:
        """Those of the model."""
        return self._loaded.signature_definitions

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        *,
        wanted: Callable[[], bool] = always,
    ) -> dict[str, Array]:
        """See :meth:`LoadedModel.predict`.

        :raises RequestError: also if the queue is full (UNAVAILABLE), the request has more rows than a batch, or the
            model's answer cannot be divided among its callers.
        """
        declared = self._loaded.signatures.get(signature)
        if declared is None or not _can_be_batched(declared):
            return self._loaded.predict(signature, inputs, output_filter, wanted=wanted)
        names = select_outputs(declared, output_filter)
        check_inputs(declared, inputs)
        rows = batch_size(inputs)
        check_size(rows, self._parameters)
        if any(declared.outputs[name].shape == () for name in names):
            raise NoBatchDimensionError("Batched output tensor has 0 dimensions")
        if any(array.size == 0 for array in inputs.values()):
            # Nothing to divide, and nothing to fill up with.
            return self._loaded.predict(signature, inputs, output_filter, wanted=wanted)
        with self._lock:
            self._requests += 1
        try:
            outputs = self._answer((signature, tuple(sorted(names))), inputs, rows, wanted)
        finally:
            with self._idle:
                self._requests -= 1
                if not self._requests:
                    self._idle.notify_all()
        return {name: outputs[name] for name in names}

    def close(self) -> None:
        """Wait until all requests are answered, and close the model."""
        with self._idle:
            while self._requests:
                self._idle.wait()
        self._loaded.close()

    def _answer(
        self, key: _Key, inputs: Mapping[str, Array], rows: int, wanted: Callable[[], bool]
    ) -> Mapping[str, Array]:
        queue = self._queue(key)
        tasks = self._tasks(queue, inputs, rows, wanted)
        batches = queue.add(tasks)
        for batch in batches:
            if batch is not None:
                self._lead(key, queue, batch)
        for task in tasks:
            self._wait(queue, task)
        for task in tasks:
            if task.error is not None:
                raise task.error
        parts = [task.outputs for task in tasks if task.outputs is not None]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _queue(self, key: _Key) -> BatchQueue:
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                if len(self._queues) >= _MOST_QUEUES:
                    # Callers choose outputs. A queue that is dropped lives as long as it has requests.
                    self._queues.clear()
                queue = self._queues[key] = BatchQueue(self._parameters)
            return queue

    def _tasks(
        self, queue: BatchQueue, inputs: Mapping[str, Array], rows: int, wanted: Callable[[], bool]
    ) -> list[Task]:
        if not self._parameters.enable_large_batch_splitting:
            return [Task(inputs, rows, wanted)]
        tasks, at, room = [], 0, queue.first_part() or self._parameters.execution_size
        while at < rows:
            end = min(rows, at + room)
            part = {name: array[at:end] for name, array in inputs.items()}
            tasks.append(Task(part, end - at, wanted, part=end - at < rows))
            at, room = end, self._parameters.execution_size
        return tasks

    def _wait(self, queue: BatchQueue, task: Task) -> None:
        while not task.done.acquire(timeout=_LOOK):
            if not task.wanted() and queue.leave(task):
                raise CallerGoneError("the caller does not wait for the answer any more")

    def _lead(self, key: _Key, queue: BatchQueue, batch: Batch) -> None:
        """Run a batch in the thread of the request that began it."""
        if self._parameters.batch_timeout_micros and not batch.closed:
            batch.full.acquire(timeout=self._parameters.batch_timeout_micros / 1e6)
        self._slots.acquire(queue)
        try:
            self._run(key, batch, queue.take(batch))
        finally:
            self._slots.release()

    def _run(self, key: _Key, batch: Batch, tasks: list[Task]) -> None:
        wanted = []
        for task in tasks:
            if task.wanted():
                wanted.append(task)
            else:
                _finish(task, error=CallerGoneError("the caller does not wait for the answer any more"))
        try:
            if wanted:
                self._run_together(key, batch, wanted)
        except Exception as error:  # noqa: BLE001 - whose it is, is found out
            self._run_apart(key, wanted, error)

    def _run_together(self, key: _Key, batch: Batch, tasks: list[Task]) -> None:
        rows = sum(task.rows for task in tasks)
        size = self._parameters.padded_size(rows)
        if (size - rows) * row_bytes(tasks[0].inputs, batch.shapes) > MOST_PADDING:
            size = rows
        alone = len(tasks) == 1 and size == rows
        inputs = tasks[0].inputs if alone else merge([task.inputs for task in tasks], batch.shapes, rows, size)
        outputs = self._loaded.predict(key[0], inputs, key[1], wanted=_together(tasks))
        check_outputs(outputs, size)
        at = 0
        for task in tasks:
            _finish(task, outputs={name: array[at : at + task.rows] for name, array in outputs.items()})
            at += task.rows

    def _run_apart(self, key: _Key, tasks: list[Task], error: Exception) -> None:
        """One after the other, after a batch has failed."""
        if len(tasks) == 1:
            _finish(tasks[0], error=error)
            return
        for task in tasks:
            try:
                outputs = self._loaded.predict(key[0], task.inputs, key[1], wanted=task.wanted)
                check_outputs(outputs, task.rows)
            except Exception as own:  # noqa: BLE001 - it goes to the request's own thread
                _finish(task, error=own)
            else:
                _finish(task, outputs=outputs)


def _can_be_batched(signature: Signature) -> bool:
    return all(not spec.shape or spec.shape[0] < 0 for spec in signature.inputs.values())


def _finish(task: Task, *, outputs: Mapping[str, Array] | None = None, error: Exception | None = None) -> None:
    task.outputs, task.error = outputs, error
    task.done.release()


def _together(tasks: Sequence[Task]) -> Callable[[], bool]:
    """Whether somebody still waits, and for how long the most patient."""
    if len(tasks) == 1:
        return tasks[0].wanted
    deadlines = [task.wanted.seconds_left if isinstance(task.wanted, Waiting) else None for task in tasks]

    def active() -> bool:
        return any(task.wanted() for task in tasks)

    def seconds_left() -> float | None:
        left = [deadline() if deadline else None for deadline in deadlines]
        return None if None in left else max(seconds for seconds in left if seconds is not None)

    return Waiting(active, seconds_left)
