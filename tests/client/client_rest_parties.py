"""A replica that speaks REST over TLS, with the surface of the one that speaks gRPC."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import grpc
from client_parties import DIGEST, Credentials, Replica, server_context
from google.protobuf.json_format import MessageToDict, MessageToJson, Parse

from sealserve.client.rest.request import EVIDENCE_PATH
from sealserve.client.rest.tensors import HEADER_LENGTH
from sealserve.ratls import TlsIdentity
from sealserve.serving.open_inference.raw import read_raw
from sealserve.serving.rest.kserve_tensors import Wishes, read_infer, write_infer
from sealserve.wire import attestation_pb2, tensorflow_serving_pb2
from sealserve.wire.open_inference_pb2 import ModelInferResponse
from sealserve.wire.tensors import from_numpy, to_numpy

_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "UNAVAILABLE": 503, "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500}
_MODEL = re.compile(r"/v[12]/models/([^/:]+)(?:/versions/([0-9]+))?(?:/|:)(infer|metadata|predict)")


class _AbortedError(Exception):
    pass


class _Context:
    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise _AbortedError(_STATUS.get(code.name, 500), text)


class RestReplica(Replica):
    """As its parent; ``log`` has gRPC's names for what was asked."""

    def __init__(
        self,
        identity: TlsIdentity,
        attester: Any,
        *,
        name: str = "replica-1",
        models: Sequence[tuple[str, int, bytes]] = (("classifier", 3, DIGEST),),
        evidence: Any = None,
        predict: Any = None,
        credentials: Credentials | None = None,
        tells_version: bool = True,
    ) -> None:
        self.identity, self.attester, self.name = identity, attester, name
        served = [attestation_pb2.ServedModel(name=m, version=v, digest=d) for m, v, d in models]
        self.claims = attestation_pb2.Claims(replica=name, models=served).SerializeToString()
        self.log, self.nonces, self.inputs = [], [], []
        self.requests: list[str] = []  # request lines
        self.evidence = evidence or self.honest_evidence
        self.predict = predict or self.honest_predict
        self.tells_version = tells_version
        self.stopping = False
        self.closes_after_evidence = False
        self.dies: bytes | None = None  # what comes of an answer before the connection breaks
        self.raw: bytes | None = None  # what is answered to an inference in the place of anything else
        self._tls = credentials.tls if credentials else server_context(identity, "http/1.1")
        self._server = _Server(self, self._tls)
        self.port = self._server.server_address[1]
        self.target = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self, grace: float | None = None) -> threading.Event:
        """With ``grace``, answers say that the connection ends, and no new ones are taken."""
        self.stopped = threading.Event()
        if grace is None:
            self._server.end()
            self.stopped.set()
        else:
            self.stopping = True
            self._server.shutdown()
            self._server.server_close()
        return self.stopped

    def __exit__(self, *_: object) -> None:
        self._server.end()

    # --- one request: status, headers, body ---------------------------------------------------------------------------

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        try:
            return self._answer(path, headers, body)
        except _AbortedError as error:
            status, text = error.args
            return status, {}, json.dumps({"error": text}).encode()

    def _answer(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == EVIDENCE_PATH:
            self.log.append("GetEvidence")
            nonce = Parse(body, attestation_pb2.EvidenceRequest()).nonce
            self.nonces.append(nonce)
            return 200, {}, MessageToJson(self.evidence(nonce)).encode()
        found = _MODEL.fullmatch(path)
        if found is None:
            return 404, {}, b'{"error": "Malformed request"}'
        if found[3] == "metadata":
            self.log.append("GetModelMetadata")
            return 200, {}, self._metadata()
        self.log.append("Predict")
        self.inputs.append(body)
        if found[3] == "predict":
            version = {"Sealserve-Model-Version": "3"} if self.tells_version else {}
            return 200, version, b'{"predictions": [1.0]}'
        return self._infer(unquote(found[1]), found[2] or "", headers, body)

    def _infer(self, name: str, version: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        length = headers.get(HEADER_LENGTH)
        infer, contents, wishes = read_infer(name, version, body, int(length) if length else None)
        request = tensorflow_serving_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = infer.parameters["signature_name"].string_param
        if version:
            request.model_spec.version.value = int(version)
        for tensor, raw in zip(infer.inputs, contents, strict=True):
            array = read_raw(tensor.datatype, tensor.shape, raw, tensor=tensor.name)
            request.inputs[tensor.name].CopyFrom(from_numpy(array))
        response = self.predict(request, _Context())
        spec = response.model_spec
        answer = ModelInferResponse(model_name=spec.name, model_version=str(spec.version.value))
        wanted = list(wishes.outputs) or list(response.outputs)
        for key in wanted:
            array = to_numpy(response.outputs[key])
            _add(answer, key, array)
        content, head = write_infer(answer, wishes or Wishes(binary=True, outputs={}))
        told = {"Sealserve-Model-Version": str(spec.version.value)}
        return 200, told | ({HEADER_LENGTH: str(head)} if head is not None else {}), content

    def _metadata(self) -> bytes:
        response = self.metadata(None, None)
        spec = tensorflow_serving_pb2.SignatureDefMap.FromString(response.metadata["signature_def"].value)
        document = {
            "model_spec": {"name": "classifier", "signature_name": "", "version": "3"},
            "metadata": {"signature_def": MessageToDict(spec, preserving_proto_field_name=True)},
        }
        return json.dumps(document).encode()


def _add(answer: ModelInferResponse, name: str, array: Any) -> None:
    from sealserve.serving.open_inference.raw import write_raw

    names = {"f4": "FP32", "f8": "FP64", "u1": "UINT8", "i8": "INT64", "i4": "INT32", "b1": "BOOL", "f2": "FP16"}
    datatype = "BYTES" if array.dtype.kind == "O" else names[array.dtype.str[1:]]
    answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
    answer.raw_output_contents.append(write_raw(array))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, replica: RestReplica, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._open: set[socket.socket] = set()
        self.replica = replica
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        plain, address = super().get_request()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._open.add(tls)
        return tls, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        with contextlib.suppress(OSError):
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one write

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        replica = self.server.replica
        replica.requests.append(self.requestline)
        if replica.dies is not None and self.path != EVIDENCE_PATH:
            self.wfile.write(replica.dies)
            self.wfile.flush()
            self.close_connection = True
            return
        if replica.raw is not None and self.path != EVIDENCE_PATH:
            self.wfile.write(replica.raw)
            self.wfile.flush()
            return
        status, headers, content = replica.answer(self.command, self.path, self.headers, body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if replica.stopping or (replica.closes_after_evidence and self.path == EVIDENCE_PATH):
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if replica.stopping:
            self.wfile.flush()
            replica.stopped.set()

    do_GET = do_POST = do_HEAD = _handle  # noqa: N815 - http.server's names
