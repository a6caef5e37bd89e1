"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), which KServe speaks.

What is asked and answered, without a transport: gRPC's service is in ``service.py``, and REST uses the same functions.
"""

from sealserve.serving.open_inference.inference import infer, model_choice
from sealserve.serving.open_inference.metadata import model_metadata, model_ready, server_metadata
from sealserve.serving.open_inference.raw import read_raw
from sealserve.serving.open_inference.service import service

__all__ = ["infer", "model_choice", "model_metadata", "model_ready", "read_raw", "server_metadata", "service"]
