"""What goes wrong in a batch.

Messages are those of ``batching_session.cc`` (TensorFlow Serving) and ``shared_batch_scheduler.h`` (TensorFlow).
"""

from __future__ import annotations

from sealserve.serving.errors import RequestError


class QueueFullError(RequestError):
    """There are as many batches as may wait."""

    code = "UNAVAILABLE"


class NoBatchDimensionError(RequestError):
    """The model's answer cannot be divided among the callers."""

    code = "FAILED_PRECONDITION"
