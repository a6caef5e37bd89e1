"""Loading SavedModels with TensorFlow, from open files.

TensorFlow's own loader opens a directory's files by their names, and whoever rules over that directory could give it
others than those that were verified. Here the graph comes from the bytes of ``saved_model.pb``, variables are fed
(:mod:`sealserve.serving.tensorflow.restoring`), and assets have the names of open files. What is run, and in which
order, is what TensorFlow Serving does (``tensorflow/cc/saved_model/loader.cc``): restore, then initialize.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported

import tensorflow as tf

from sealserve.errors import ModelError
from sealserve.logs import event, get_logger
from sealserve.models.saved_model import DEFAULT_SIGNATURE, Signature
from sealserve.serving.checks import require_known_types
from sealserve.serving.engine import LoadedModel
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.saved_model_files import definitions, parse, read
from sealserve.serving.tensorflow.assets import OpenAssets
from sealserve.serving.tensorflow.errors import message_of
from sealserve.serving.tensorflow.model import TensorFlowModel
from sealserve.serving.tensorflow.restoring import restore

_SERVE = "serve"
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_UNKNOWN = re.compile(r"Op type not registered '(?P<operation>[^']+)'")

_log = get_logger(__name__)


class TensorFlowEngine:
    """Loads models with TensorFlow.

    :param threads: CPU threads for one operation, and for operations side by side; TensorFlow's own choice if not
        given. TensorFlow keeps one pool of each for the whole process: the first model's number counts.
    :param inter_op_threads: for operations side by side, if it is another number.
    :param parallel_requests: how many requests may be in one model at once; no limit if not given.
    """

    name = "tensorflow"

    def __init__(
        self,
        *,
        threads: int | None = None,
        inter_op_threads: int | None = None,
        parallel_requests: int | None = None,
    ) -> None:
        self._config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads or 0,
            inter_op_parallelism_threads=inter_op_threads or threads or 0,
            allow_soft_placement=True,  # a graph that names a GPU runs without one
        )
        self._parallel_requests = parallel_requests

    def load(self, files: ModelFiles) -> LoadedModel:
        """Load one version; see :meth:`Engine.load`."""
        data = read(files)
        signatures, signature_definitions = _signatures(data)
        meta_graph = _meta_graph(data)
        del data
        with contextlib.ExitStack() as stack:
            graph = _import(meta_graph)
            session = tf.compat.v1.Session(graph=graph, config=self._config)
            stack.callback(session.close)
            assets = OpenAssets(meta_graph, files)
            stack.callback(assets.close)
            try:
                restore(session, meta_graph, files)
                _initialize(session, meta_graph, assets.feeds)
            except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
                raise ModelError(
                    f"TensorFlow cannot load the model: {_summary(error)}", hint="Export the model again."
                ) from error
            refused = _refuse(graph, signatures)
            return TensorFlowModel(
                session,
                {name: one for name, one in signatures.items() if name not in refused},
                refused,
                signature_definitions,
                stack.pop_all().close,
                parallel=self._parallel_requests,
            )


def _signatures(data: bytes) -> tuple[Mapping[str, Signature], Mapping[str, Any]]:
    meta_graph, signatures = parse(data)
    return signatures, definitions(meta_graph)


def _meta_graph(data: bytes) -> Any:
    """TensorFlow's own message of the graph for serving, which has what ours leaves out."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    for meta_graph in SavedModel.FromString(data).meta_graphs:
        if _SERVE in meta_graph.meta_info_def.tags:
            return meta_graph
    raise AssertionError("unreachable: it was parsed before")


def _import(meta_graph: Any) -> tf.Graph:
    producer = meta_graph.meta_info_def.stripped_op_list
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.graph_util.import_graph_def(meta_graph.graph_def, name="", producer_op_list=producer)
    except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        if unknown := _UNKNOWN.search(str(error)):
            raise ModelError(
                f"TensorFlow {tf.__version__} has no operation {unknown['operation']}, which the model uses",
                hint="It is an operation of a library beside TensorFlow, or of a later version: export the model "
                "without it, or install a later TensorFlow.",
            ) from error
        raise ModelError(
            f"TensorFlow cannot read the model's graph: {_summary(error)}", hint="Export the model again."
        ) from error
    # The graph has the weights of the message now, and the functions are needed for restoring.
    del meta_graph.graph_def.node[:]
    return graph


def _initialize(session: Any, meta_graph: Any, feeds: Mapping[str, str]) -> None:
    """Run what fills lookup tables and the like."""
    if _INIT_SIGNATURE in meta_graph.signature_def:
        name = meta_graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name.partition(":")[0]
        session.run(session.graph.get_operation_by_name(name), feeds)
        return
    for collection in _INIT_COLLECTIONS:
        names = meta_graph.collection_def[collection].node_list.value if collection in meta_graph.collection_def else ()
        if names:
            session.run(session.graph.get_operation_by_name(names[0]), feeds)
            return


def _refuse(graph: tf.Graph, signatures: Mapping[str, Signature]) -> dict[str, ModelError]:
    """Signatures that cannot be used.

    :raises ModelError: the first is one of them: ``serving_default``, where the model has it.
    """
    refused: dict[str, ModelError] = {}
    names = sorted(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    for name in names:
        try:
            _check(graph, name, signatures[name])
        except ModelError as error:
            if name == names[0]:
                raise
            event(_log, logging.WARNING, "signature-not-usable", signature=name, reason=error)
            refused[name] = error
    return refused


def _check(graph: tf.Graph, name: str, signature: Signature) -> None:
    """:raises ModelError: a tensor is not in the graph or of another type there, or no request can have its type."""
    for alias, spec in (*signature.inputs.items(), *signature.outputs.items()):
        try:
            tensor = graph.get_tensor_by_name(spec.name)
        except (KeyError, ValueError):
            what = f"has no tensor {spec.name or '(without a name)'}, which its signature {name} calls {alias}"
        else:
            if int(tensor.dtype.base_dtype.as_datatype_enum) == spec.data_type:
                continue
            what = f"has a tensor {spec.name} of {tensor.dtype.base_dtype.name}; the signature {name} says {spec}"
        raise ModelError(
            f"the model's graph {what}", hint="Export the model again, without sparse or composite tensors."
        ) from None
    require_known_types(name, signature)


def _summary(error: Exception) -> str:
    text = message_of(error) if isinstance(error, tf.errors.OpError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
