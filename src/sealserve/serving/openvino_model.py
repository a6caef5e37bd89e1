"""A model that OpenVINO compiled: its signatures bound to OpenVINO's ports, and a pool of requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sealserve.errors import ModelError
from sealserve.logs import event, get_logger
from sealserve.serving.checks import check_inputs, select_outputs
from sealserve.serving.engine import Array, Signature, TensorSpec, always
from sealserve.serving.errors import RequestError, SignatureNotFoundError
from sealserve.serving.openvino_errors import USE_TENSORFLOW, summary
from sealserve.serving.openvino_limits import check_ranges
from sealserve.serving.openvino_types import data_type_of
from sealserve.serving.string_signature import Runs
from sealserve.serving.turns import Turns
from sealserve.wire.bfloat16 import BFLOAT16
from sealserve.wire.tensorflow_pb2 import DataType, SignatureDef

_SMALL = 4096  # bytes of all inputs

_log = get_logger(__name__)


class OpenVinoModel:
    """Implements :class:`LoadedModel`."""

    platform = "openvino"

    def __init__(
        self,
        compiled: Mapping[str, Runs],
        refused: Mapping[str, ModelError],
        definitions: Mapping[str, SignatureDef],
    ) -> None:
        self._compiled = compiled
        self._refused = refused
        self._signatures = {name: one.signature for name, one in compiled.items()}
        self._definitions = definitions

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be asked of it. A signature that OpenVINO cannot run is not among them."""
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
        """See :meth:`LoadedModel.predict`."""
        if signature in self._refused:
            raise SignatureNotFoundError(self._refused[signature].message)
        if signature not in self._compiled:
            raise SignatureNotFoundError(f'Serving signature key "{signature}" not found.')
        return self._compiled[signature].predict(inputs, output_filter, wanted)

    def close(self) -> None:
        """See :meth:`LoadedModel.close`. OpenVINO frees a model when nobody refers to it any more."""


class CompiledSignature:
    """One signature of a compiled graph.

    :param requests: of the graph; several signatures may have the same.
    :param inputs: the tensor name in OpenVINO's model for each of the signature's inputs; so for ``outputs``.
    :raises ModelError: OpenVINO's model lacks one of them, or has it in another type.
    """

    def __init__(
        self,
        requests: Requests,
        name: str,
        signature: Signature,
        *,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
    ) -> None:
        self.signature = signature
        self.requests = requests
        compiled = requests.compiled
        self._inputs = {alias: _find_port(compiled.inputs, inputs[alias], alias, name) for alias in signature.inputs}
        self._outputs = {
            alias: _find_port(compiled.outputs, outputs[alias], alias, name) for alias in signature.outputs
        }
        if len(compiled.inputs) != len(signature.inputs):
            raise ModelError(f"OpenVINO's model of the signature {name} has inputs that the signature does not have")
        for alias, spec in signature.inputs.items():
            require_same_type(compiled.inputs[self._inputs[alias]], spec, alias, name)
        for alias, spec in signature.outputs.items():
            require_same_type(compiled.outputs[self._outputs[alias]], spec, alias, name)
        self._bfloat16 = {
            alias
            for alias, spec in (*signature.inputs.items(), *signature.outputs.items())
            if spec.data_type == DataType.DT_BFLOAT16
        }

    def predict(
        self, inputs: Mapping[str, Array], output_filter: Sequence[str], wanted: Callable[[], bool]
    ) -> dict[str, Array]:
        """See :meth:`LoadedModel.predict`."""
        names = select_outputs(self.signature, output_filter)
        check_inputs(self.signature, inputs)
        check_ranges(self.signature, inputs)
        if self._bfloat16:
            # OpenVINO shows its memory as float16 then; the bits are what is copied.
            inputs = {alias: self._viewed(alias, array, np.float16) for alias, array in inputs.items()}
        request = self.requests.turns.take(wanted)
        try:
            request.run({self._inputs[alias]: array for alias, array in inputs.items()})
            outputs = {alias: request.output(self._outputs[alias]) for alias in names}
        except RuntimeError as error:
            event(_log, logging.WARNING, "inference-failed", reason=error)
            raise RequestError(f"the model cannot be run on these inputs: {summary(str(error))}") from error
        finally:
            self.requests.turns.give_back(request)
        if self._bfloat16:
            outputs = {alias: self._viewed(alias, array, BFLOAT16) for alias, array in outputs.items()}
        return outputs

    def _viewed(self, alias: str, array: Array, kind: Any) -> Array:
        return array.view(kind) if alias in self._bfloat16 else array


class Requests:
    """OpenVINO's requests of a compiled graph, each used by one thread at a time.

    :param parallel: how many may run at once; OpenVINO's own choice if None.
    :param light: the same graph for one thread, where a run on a small input is over before others have woken up.
    """

    def __init__(self, compiled: Any, parallel: int | None, *, light: Any = None) -> None:
        self.compiled = compiled
        count = parallel or int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.turns = Turns(_infer_request(compiled, light) for _ in range(count))


def _infer_request(compiled: Any, light: Any) -> InferRequest:
    usual = _Bound(compiled.create_infer_request())
    return InferRequest(usual, usual if light is None else _Bound(light.create_infer_request()))


class InferRequest:
    """One of OpenVINO's requests; or two, of which the one for small inputs computes in one thread.

    Threads that wait for more to do keep their cores busy for a while: the callers' and gRPC's have to wait.
    """

    def __init__(self, usual: _Bound, light: _Bound) -> None:
        self._usual = usual
        self._light = light
        self._ran = usual

    def run(self, arrays: Mapping[int, Array]) -> None:
        """Compute. :raises RuntimeError: OpenVINO cannot."""
        size = 0
        for array in arrays.values():
            size += array.nbytes
        self._ran = self._light if size <= _SMALL else self._usual
        self._ran.run(arrays)

    def output(self, port: int) -> Array:
        """A copy of what came out: the next run overwrites OpenVINO's own."""
        return self._ran.output(port)


class _Bound:
    """A request of OpenVINO's, and the memory of its inputs.

    OpenVINO's own way to give it arrays takes 30 to 60 microseconds for the smallest, and longer for those that are
    read-only, as all are that came in a message; a copy into its tensors takes one.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._views: dict[int, Array] = {}

    def run(self, arrays: Mapping[int, Array]) -> None:
        # Inputs are copied. Where they are shared and the graph gives one back as it is (x * 1, two casts), OpenVINO
        # 2026.4 reads the memory of an earlier request's input, which is freed by then.
        for port, array in arrays.items():
            view = self._views.get(port)
            if view is None or view.shape != array.shape:
                self._views.pop(port, None)
                tensor = self._request.get_input_tensor(port)
                tensor.shape = array.shape
                view = self._views[port] = tensor.data
            view[...] = array
        self._request.infer(share_outputs=True)

    def output(self, port: int) -> Array:
        return np.array(self._request.get_output_tensor(port).data)


def _find_port(ports: Sequence[Any], tensor_name: str, alias: str, signature: str) -> int:
    found = [index for index, port in enumerate(ports) if tensor_name in port.get_names()]
    if not found:
        raise ModelError(
            f"OpenVINO cannot run the signature {signature}: it does not keep the tensor {alias}",
            hint=f"The tensor may be an input that nothing uses: export the model without it. {USE_TENSORFLOW}.",
        )
    # Several ports of one name are the same tensor.
    return found[0]


def require_same_type(port: Any, spec: TensorSpec, alias: str, signature: str) -> None:
    """:raises ModelError: a tensor of OpenVINO's model has another type than the signature says."""
    kind = port.get_element_type()
    if data_type_of(kind) != spec.data_type:
        raise ModelError(
            f"OpenVINO cannot run the signature {signature}: {alias} is {spec.dtype} there, and {kind.get_type_name()} "
            "in OpenVINO's model",
            hint=f"{USE_TENSORFLOW}.",
        )
