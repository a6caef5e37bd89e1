"""How requests are batched: TensorFlow Serving's ``BatchingParameters``, from its file of protobuf text.

Source of fields and defaults: ``session_bundle_config.proto`` of TensorFlow Serving, ``shared_batch_scheduler.h`` of
TensorFlow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

from google.protobuf import text_format

from sealserve.errors import ConfigurationError
from sealserve.wire import tensorflow_serving_config_pb2 as config_pb2

_FIELDS = (
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "enable_large_batch_splitting",
    "max_execution_batch_size",
)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are batched. Sizes are rows: the first dimension of the inputs.

    :ivar max_batch_size: of a batch, and of one request.
    :ivar batch_timeout_micros: how long a batch waits for more requests while nothing else keeps it waiting.
    :ivar max_enqueued_batches: of one signature and choice of outputs, that may wait to be run.
    :ivar num_batch_threads: batches that may run at once. No threads are started for them.
    :ivar allowed_batch_sizes: ascending; a batch is filled up to the next of them. Any size, if there are none.
    :ivar pad_variable_length_inputs: fill up inputs of different inner shapes, each with its own first element;
        otherwise they are not put into one batch.
    :ivar enable_large_batch_splitting: divide requests among batches.
    :ivar max_execution_batch_size: of a batch, where requests are divided; ``max_batch_size`` bounds requests then.
    :raises ConfigurationError: a value is not possible.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=_cores)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "num_batch_threads", "max_execution_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _error(f"{name} must be positive; was {value}")
        least = 1 if self.enable_large_batch_splitting else 0
        if self.max_enqueued_batches < least:
            raise _error(f"max_enqueued_batches must be at least {least}; was {self.max_enqueued_batches}")
        if self.batch_timeout_micros < 0:
            raise _error(f"batch_timeout_micros must be non-negative; was {self.batch_timeout_micros}")
        if self.enable_large_batch_splitting and self.execution_size > self.max_batch_size:
            raise _error("max_execution_batch_size must not be above max_batch_size")
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if sizes[0] < 1 or any(one >= other for one, other in pairwise(sizes)):
            raise _error(f"allowed_batch_sizes must be positive and in increasing order; were {list(sizes)}")
        if sizes[-1] != self.max_batch_size:
            raise _error(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.max_batch_size}"
            )

    @property
    def execution_size(self) -> int:
        """The most rows of a batch."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    def padded_size(self, rows: int) -> int:
        """The allowed size for a batch of so many rows."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    @classmethod
    def from_text(cls, text: str, *, source: str = "batching parameters") -> Self:
        """Read TensorFlow Serving's file, such as ``max_batch_size { value: 128 }``. What is not in it has its default.

        :param source: what errors call the text.
        :raises ConfigurationError: it is no such text, or a value is not possible; the message names the field.
        """
        message = config_pb2.BatchingParameters()
        try:
            text_format.Parse(text, message)
        except (text_format.ParseError, UnicodeError) as error:
            raise ConfigurationError(
                f"{source}: {error}",
                hint="The file is protobuf text, in TensorFlow Serving's form: max_batch_size { value: 32 }",
            ) from error
        try:
            return cls.from_proto(message)
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error.message}", hint=error.hint) from error

    @classmethod
    def from_proto(cls, message: config_pb2.BatchingParameters) -> Self:
        """Read the message. ``thread_pool_name`` has no meaning here. :raises ConfigurationError: as above."""
        given = {name: getattr(message, name).value for name in _FIELDS if message.HasField(name)}
        return cls(
            **given,
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            pad_variable_length_inputs=message.pad_variable_length_inputs,
        )


def _error(text: str) -> ConfigurationError:
    return ConfigurationError(text, hint="See TensorFlow Serving's guide to batching for what the parameters mean.")
