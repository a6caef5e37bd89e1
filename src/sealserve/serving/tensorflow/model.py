"""A model that TensorFlow runs: signatures over one session."""

from __future__ import annotations

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
from sealserve.serving.turns import Turns
from sealserve.wire.bfloat16 import BFLOAT16, is_bfloat16
from sealserve.wire.tensorflow_pb2 import SignatureDef


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
        self._turns = Turns(range(parallel)) if parallel else None

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
        fetches, feeds = self._prepare(signature, output_filter, inputs)
        return self._run({signature: fetches}, feeds, wanted)[signature]

    def predict_together(
        self,
        outputs: Mapping[str, Sequence[str]],
        inputs: Mapping[str, Array],
        *,
        wanted: Callable[[], bool] = always,
    ) -> dict[str, dict[str, Array]] | None:
        """See :meth:`RunsTogether.predict_together`. Ends at the deadline, if ``wanted`` tells one."""
        fetches: dict[str, dict[str, str]] = {}
        feeds: dict[str, Array] = {}
        for signature, output_filter in outputs.items():
            fetches[signature], given = self._prepare(signature, output_filter, inputs)
            feeds = feeds or given
            if given.keys() != feeds.keys() or any(given[name] is not feeds[name] for name in feeds):
                return None
        return self._run(fetches, feeds, wanted)

    def _prepare(
        self, signature: str, output_filter: Sequence[str], inputs: Mapping[str, Array]
    ) -> tuple[dict[str, str], dict[str, Array]]:
        """The tensors to fetch, by the outputs' names, and those to feed."""
        spec = self._find(signature)
        names = select_outputs(spec, output_filter)
        check_inputs(spec, inputs)
        feeds = {spec.inputs[alias].name: _fed(array) for alias, array in inputs.items()}
        return {alias: spec.outputs[alias].name for alias in names}, feeds

    def _run(
        self, fetches: Mapping[str, Mapping[str, str]], feeds: Mapping[str, Array], wanted: Callable[[], bool]
    ) -> dict[str, dict[str, Array]]:
        with self._turn(wanted):
            try:
                values = self._session.run(fetches, feeds, _options(wanted))
            except tf.errors.OpError as error:
                raise explain(error) from error
        return {
            signature: {alias: _own(value, feeds.values()) for alias, value in answer.items()}
            for signature, answer in values.items()
        }

    def _find(self, signature: str) -> Signature:
        if signature in self._refused:
            raise SignatureNotFoundError(self._refused[signature].message)
        if signature not in self._signatures:
            raise SignatureNotFoundError(f'Serving signature key "{signature}" not found.')
        return self._signatures[signature]

    def close(self) -> None:
        """See :meth:`LoadedModel.close`."""
        self._release()

    @contextmanager
    def _turn(self, wanted: Callable[[], bool]) -> Iterator[None]:
        if self._turns is None:
            if not wanted():
                raise CallerGoneError("the caller does not wait for the answer any more")
            yield
            return
        turn = self._turns.take(wanted)
        try:
            yield
        finally:
            self._turns.give_back(turn)


def _options(wanted: Callable[[], bool]) -> Any:
    left = wanted.seconds_left() if isinstance(wanted, Waiting) else None
    return None if left is None else tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(left * 1000)))


def _fed(array: Array) -> Array:
    """As TensorFlow has it."""
    return array.view(tf.bfloat16.as_numpy_dtype) if array.dtype == BFLOAT16 else array


def _own(value: Any, inputs: Any) -> Array:
    if isinstance(value, bytes):  # a string without dimensions
        array = np.empty((), dtype=object)
        array[()] = value
        return array
    array = np.asarray(value)
    if is_bfloat16(array.dtype):
        array = array.view(BFLOAT16)
    # TensorFlow neither copies what is fed nor what is fetched.
    return array.copy() if any(np.may_share_memory(array, given) for given in inputs) else array
