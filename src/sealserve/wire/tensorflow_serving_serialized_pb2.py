"""Messages of ``protos/tensorflow_serving_serialized.proto``; the stub beside this file gives their types."""

from sealserve.wire import _pool

globals().update(_pool.define("tensorflow_serving_serialized.proto"))
