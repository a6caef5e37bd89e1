"""Several requests in one run of the model, as TensorFlow Serving does it; see ``docs/serving-performance.md``."""

from sealserve.serving.batching.model import BatchingModel
from sealserve.serving.batching.parameters import BatchingParameters
from sealserve.serving.batching.slots import BatchSlots

__all__ = ["BatchSlots", "BatchingModel", "BatchingParameters"]
