"""Messages on the wire: TensorFlow's, TensorFlow Serving's, and our own attestation service, as protobuf.

Trust is not decided here: whatever is parsed here came from somebody, and upper rooms judge it. ``./run protos`` makes
``descriptors.binpb`` and the type stubs from ``protos/``.
"""
