"""Messages of ``protos/open_inference.proto``; the stub beside this file gives their types."""

from sealserve.wire import _pool

globals().update(_pool.define("open_inference.proto"))
