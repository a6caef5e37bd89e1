"""The Open Inference Protocol, version 2, over HTTP (https://github.com/kserve/open-inference-protocol), with its
extension for binary tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from sealserve.serving import open_inference
from sealserve.serving.core import ModelServer
from sealserve.serving.errors import RequestError
from sealserve.serving.rest.http_errors import HttpError
from sealserve.serving.rest.json_text import Take
from sealserve.serving.rest.kserve_tensors import HEADER_LENGTH, read_infer, write_infer
from sealserve.serving.rest.paths import decoded
from sealserve.serving.rest.work import MODEL_VERSION, Call, Reply, Work, malformed, require

ROOT = "/v2"

_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>infer|ready))?")


class KServeApi:
    """Requests of the protocol. :param ready: whether the server takes requests and its models are loaded."""

    def __init__(self, core: ModelServer, ready: Callable[[], bool]) -> None:
        self._core = core
        self._ready = ready

    def find(self, call: Call) -> Reply | Work:
        """An answer, or what is to be done for one. :raises RequestError: nobody knows."""
        match call.path.rstrip("/"):
            case "/v2":
                require(call, "GET", "HEAD")
                return Reply(
                    orjson.dumps(_plain(open_inference.server_metadata()) | {"extensions": ["binary_tensor_data"]})
                )
            case "/v2/health/live":
                require(call, "GET", "HEAD")
                return Reply(b'{"live":true}')
            case "/v2/health/ready":
                require(call, "GET", "HEAD")
                ready = self._ready()
                return Reply(orjson.dumps({"ready": ready}), 200 if ready else HTTPStatus.SERVICE_UNAVAILABLE)
            case path:
                found = _MODEL.fullmatch(path)
        if found is None:
            raise HttpError(HTTPStatus.NOT_FOUND, malformed(call))
        require(call, *(("POST",) if found["what"] == "infer" else ("GET", "HEAD")))
        name, version = (decoded(found[part] or "", f"model {part}") for part in ("name", "version"))
        match found["what"]:
            case "infer":
                call.model, call.operation = name, "ModelInfer"
                length = _header_length(call)

                def infer(body: bytes, wanted: Callable[[], bool], take: Take) -> Reply:
                    request, raw, wishes = read_infer(name, version, body, length, take=take)
                    response = open_inference.infer(self._core, request, raw, take=take, wanted=wanted)
                    return _reply(*write_infer(response, wishes), response.model_version)

                return Work(infer)
            case "ready":
                return Work(lambda *_: self._model_ready(name, version), has_body=False, beside=True)
            case _:
                return Work(lambda *_: self._metadata(name, version), has_body=False, beside=True)

    def _model_ready(self, name: str, version: str) -> Reply:
        ready = open_inference.model_ready(self._core, name, version)
        return Reply(orjson.dumps({"name": name, "ready": ready}), 200 if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _metadata(self, name: str, version: str) -> Reply:
        found = _plain(open_inference.model_metadata(self._core, name, version))
        for tensor in (*found["inputs"], *found["outputs"]):
            tensor["shape"] = [int(size) for size in tensor["shape"]]  # protobuf writes int64 as strings
        return Reply(orjson.dumps(found))


def _reply(content: bytes, json_length: int | None, version: str) -> Reply:
    headers = {MODEL_VERSION: version}
    if json_length is None:
        return Reply(content, headers=headers)
    headers[HEADER_LENGTH] = str(json_length)
    return Reply(content, content_type="application/octet-stream", headers=headers)


def _plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _header_length(call: Call) -> int | None:
    text = call.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,12}", text):
        raise RequestError(f"{HEADER_LENGTH} is no number of bytes")
    return int(text)
