"""Messages of ``protos/attestation.proto``; the stub beside this file gives their types."""

from sealserve.wire import _pool

globals().update(_pool.define("attestation.proto"))
