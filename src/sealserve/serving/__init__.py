"""The TensorFlow Serving API over engines: one data plane, thin gRPC in front of it.

Callers are authenticated by nobody here: whatever arrives is checked against the model's signature before an engine
sees it. The model itself was verified before it got here, by whoever unsealed it.
"""
