from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvidenceRequest(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class ServedModel(_message.Message):
    __slots__ = ("name", "version", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    digest: bytes
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Claims(_message.Message):
    __slots__ = ("replica", "models", "receipt_key", "shared_tls_key")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_KEY_FIELD_NUMBER: _ClassVar[int]
    SHARED_TLS_KEY_FIELD_NUMBER: _ClassVar[int]
    replica: str
    models: _containers.RepeatedCompositeFieldContainer[ServedModel]
    receipt_key: bytes
    shared_tls_key: bool
    def __init__(self, replica: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ServedModel, _Mapping]]] = ..., receipt_key: _Optional[bytes] = ..., shared_tls_key: _Optional[bool] = ...) -> None: ...

class EvidenceResponse(_message.Message):
    __slots__ = ("quote", "claims")
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    quote: bytes
    claims: bytes
    def __init__(self, quote: _Optional[bytes] = ..., claims: _Optional[bytes] = ...) -> None: ...
