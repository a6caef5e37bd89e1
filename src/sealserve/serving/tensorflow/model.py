"""A model that TensorFlow runs: signatures over one session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from sealserve.errors import ModelError
from sealserve.serving.checks import check_inputs, select_outputs
from sealserve.serving.engine import Array, Signature, Waiting, always
from sealserve.serving.errors import CallerGoneError, SignatureNotFoundError
from sealserve.serving.tensorflow.errors import explain
from sealserve.wire.tensorflow_pb2 import SignatureDef

_WAIT = 0.05  # seconds between two looks at whether the caller is still there


class TensorFlowModel:
    """Implements :class:`LoadedModel`.

    :param refused: signatures that cannot be run, with the reasons.
    :param release: closes the session, and what else the model holds.
    """

    platform = "tensorflow"

    def __init__(
        self,
        session: Any,
        signatures: Mapping[str, Signature],
        refused: Mapping[str, ModelError],
        definitions: Mapping[str, SignatureDef],
        release: Callable[[], None],
        *,
        parallel: int | None,
    ) -> None:
        self._session = session
        self._signatures = signatures
        self._refused = refused
        self._definitions = definitions
        self._release = release
        self._turns = threading.Semaphore(parallel) if parallel else None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be asked of it."""
        return self._signatures

    @property
    def signature_definitions(self) -> Mapping[str, SignatureDef]:
        """All signatures of the model's file."""
        return self._definitions

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        *,
        wanted: Callable[[], bool] = always,
    ) -> dict[str, Array]:
        """See :meth:`LoadedModel.predict`. Ends at the deadline, if ``wanted`` tells one."""
        if signature in self._refused:
            raise SignatureNotFoundError(self._refused[signature].message)
        if signature not in self._signatures:
            raise SignatureNotFoundError(f'Serving signature key "{signature}" not found.')
        spec = self._signatures[signature]
        names = select_outputs(spec, output_filter)
        check_inputs(spec, inputs)
        feeds = {spec.inputs[alias].name: array for alias, array in inputs.items()}
        with self._turn(wanted):
            try:
                values = self._session.run([spec.outputs[alias].name for alias in names], feeds, _options(wanted))
            except tf.errors.OpError as error:
                raise explain(error) from error
        return {alias: _own(value, inputs.values()) for alias, value in zip(names, values, strict=True)}

    def close(self) -> None:
        """See :meth:`LoadedModel.close`."""
        self._release()

    @contextmanager
    def _turn(self, wanted: Callable[[], bool]) -> Iterator[None]:
        while True:
            if not wanted():
                raise CallerGoneError("the caller does not wait for the answer any more")
            if self._turns is None or self._turns.acquire(timeout=_WAIT):
                break
        try:
            yield
        finally:
            if self._turns is not None:
                self._turns.release()


def _options(wanted: Callable[[], bool]) -> Any:
    left = wanted.seconds_left() if isinstance(wanted, Waiting) else None
    return None if left is None else tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(left * 1000)))


def _own(value: Any, inputs: Any) -> Array:
    if isinstance(value, bytes):  # a string without dimensions
        array = np.empty((), dtype=object)
        array[()] = value
        return array
    array = np.asarray(value)
    # TensorFlow neither copies what is fed nor what is fetched.
    return array.copy() if any(np.may_share_memory(array, given) for given in inputs) else array
