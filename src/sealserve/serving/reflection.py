"""Server reflection, by which clients such as grpcurl learn what a server can be asked.

``grpc.reflection.v1`` and ``v1alpha`` differ in their names alone
(https://github.com/grpc/grpc/blob/master/src/proto/grpc/reflection/v1/reflection.proto); grpcio-reflection has the
second one's messages. Its servicer takes as many messages as a stream brings, for as long as the stream likes; here the
stream is a bounded :class:`Conversation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from sealserve.serving.methods import Conversation, Service
from sealserve.wire._pool import FILES, POOL

SERVICE_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_NOT_FOUND, _INVALID_ARGUMENT = 5, 3  # grpc.StatusCode


def reflection_services(names: Iterable[str]) -> list[Service]:
    """Both versions' services.

    :param names: of the server's other services, health checking included. Those of which a descriptor is known can be
        described as well as listed.
    """
    reflection = _Reflection([*names, *SERVICE_NAMES])
    method = Conversation(reflection.answer, ServerReflectionRequest)
    return [Service(name, {"ServerReflectionInfo": method}) for name in SERVICE_NAMES]


class _Reflection:
    """Answers to each request of ``ServerReflectionInfo``."""

    def __init__(self, names: Iterable[str]) -> None:
        self._pool = DescriptorPool()
        self._services = sorted(names)
        ours = (POOL.FindFileByName(name) for name in FILES)
        for file in (*ours, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            self._pool.AddSerializedFile(file.serialized_pb)
        self._pool.Add(_version1())

    def answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(response, request)
        except KeyError:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = "the server has no such symbol or file"
        return response

    def _fill(self, response: ServerReflectionResponse, request: ServerReflectionRequest) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._add_files(response, self._pool.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                self._add_files(response, self._pool.FindFileContainingSymbol(request.file_containing_symbol))
            case "all_extension_numbers_of_type":
                message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                response.all_extension_numbers_response.base_type_name = message.full_name
            case "file_containing_extension":
                raise KeyError  # proto3 has no extensions
            case _:
                response.error_response.error_code = _INVALID_ARGUMENT
                response.error_response.error_message = "the request asks for nothing"

    @staticmethod
    def _add_files(response: ServerReflectionResponse, file: FileDescriptor) -> None:
        files = {one.name: one.serialized_pb for one in _with_dependencies(file)}
        response.file_descriptor_response.file_descriptor_proto.extend(files.values())


def _version1() -> FileDescriptorProto:
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    return text_format.Parse(text_format.MessageToString(alpha).replace("v1alpha", "v1"), FileDescriptorProto())


def _with_dependencies(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """The file itself comes first."""
    yield file
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency)
