"""Requests that wait for a batch, and batches that wait to be run: one queue per signature and choice of outputs.

Which batch a request comes into, and when a queue is full, are TensorFlow's rules (``shared_batch_scheduler.h``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from sealserve.serving.batching.errors import QueueFullError
from sealserve.serving.batching.merging import MOST_PADDING, Inputs, Shapes, inner_shapes, row_bytes, widest
from sealserve.serving.batching.parameters import BatchingParameters
from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError


@dataclass(eq=False)
class Task:
    """A request, or a part of one.

    :ivar part: of a request that is divided. What comes out of its parts must have the same inner shapes, so that none
        is filled up.
    :ivar done: is released when there are outputs or an error.
    """

    inputs: Inputs
    rows: int
    wanted: Callable[[], bool]
    part: bool = False
    outputs: Mapping[str, Array] | None = None
    error: Exception | None = None
    done: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.done.acquire()


class Batch:
    """Tasks that will run together. The first of them runs it.

    :ivar shapes: of one row, into which those of all tasks fit.
    """

    def __init__(self, kind: Hashable, shapes: Shapes) -> None:
        self.kind = kind
        self.shapes = shapes
        self.tasks: list[Task] = []
        self.rows = 0
        self.bytes = 0
        self.full = threading.Lock()
        self.full.acquire()
        self.closed = False


class BatchQueue:
    """Batches in the order of their beginning."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self._parameters = parameters
        self._lock = threading.Lock()
        self._batches: list[Batch] = []

    def add(self, tasks: list[Task]) -> list[Batch | None]:
        """Put the parts of one request into batches, all or none.

        :returns: for each, the batch that it is to run; None where another does.
        :raises QueueFullError: there is no room.
        """
        with self._lock:
            self._check_room(tasks)
            return [self._place(task) for task in tasks]

    def first_part(self) -> int:
        """How many rows the last batch has room for."""
        with self._lock:
            return self._room(self._batches[-1]) if self._batches else self._parameters.execution_size

    def take(self, batch: Batch) -> list[Task]:
        """Begin to run a batch: nothing comes into it any more. Returns those for whom somebody still waits."""
        with self._lock:
            batch.closed = True
            if batch in self._batches:
                self._batches.remove(batch)
            return batch.tasks

    def leave(self, task: Task) -> bool:
        """Take a task out again; False if it runs already, or is done."""
        with self._lock:
            for batch in self._batches:
                if task in batch.tasks:
                    batch.tasks.remove(task)
                    batch.rows -= task.rows
                    return True
        return False

    def _check_room(self, tasks: list[Task]) -> None:
        waiting, most = max(1, len(self._batches)), self._parameters.max_enqueued_batches
        rows = sum(task.rows for task in tasks)
        if self._parameters.enable_large_batch_splitting:
            size, last = self._parameters.execution_size, self._batches[-1].rows if self._batches else 0
            capacity = (most - waiting) * size + size - last
            if rows > capacity:
                raise QueueFullError(
                    "The batch scheduling queue to which this task was submitted is full; task size is "
                    f"{rows} but scheduling capacity is only {capacity} (num_enqueued_batches={waiting}, "
                    f"max_enqueued_batches={most}, open_batch_size={last}, max_execution_batch_size={size})"
                )
        elif self._batches and waiting >= most and self._fitting(tasks[0]) is None:
            raise QueueFullError(
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{waiting} batches enqueued and max_enqueued_batches is {most}"
            )

    def _place(self, task: Task) -> Batch | None:
        batch, leads = self._fitting(task), None
        if batch is None:
            batch = leads = Batch(_kind(task, self._parameters), inner_shapes(task.inputs))
            self._batches.append(batch)
        batch.tasks.append(task)
        batch.rows += task.rows
        batch.shapes = widest(batch.shapes, inner_shapes(task.inputs))
        batch.bytes += sum(array.nbytes for array in task.inputs.values())
        if batch.rows >= self._parameters.execution_size and not batch.closed:
            batch.closed = True
            batch.full.release()
        return leads

    def _fitting(self, task: Task) -> Batch | None:
        kind = _kind(task, self._parameters)
        # Of each kind, only the last is open.
        batch = next((batch for batch in reversed(self._batches) if batch.kind == kind), None)
        if batch is None or task.rows > self._room(batch):
            return None
        shapes = widest(batch.shapes, inner_shapes(task.inputs))
        size = row_bytes(task.inputs, shapes) * (batch.rows + task.rows)
        given = batch.bytes + sum(array.nbytes for array in task.inputs.values())
        return batch if size - given <= MOST_PADDING else None

    def _room(self, batch: Batch) -> int:
        return 0 if batch.closed else self._parameters.execution_size - batch.rows


def _kind(task: Task, parameters: BatchingParameters) -> Hashable:
    """What may come together: the same shapes, or the same numbers of dimensions."""
    shapes = sorted(inner_shapes(task.inputs).items())
    if parameters.pad_variable_length_inputs and not task.part:
        return tuple((name, len(shape)) for name, shape in shapes)
    return tuple(shapes)


def check_size(rows: int, parameters: BatchingParameters) -> None:
    """:raises RequestError: a request has more rows than any may have."""
    if rows > parameters.max_batch_size:
        raise RequestError(f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}")
