"""Which versions of which models are loaded: where they lie, which are wanted, and going from one to the next.

Behaviour follows TensorFlow Serving's ``FileSystemStoragePathSource``, ``AvailabilityPreservingPolicy`` and
``ServerCore``; ``docs/model-versions.md`` has what users see of it, and where it differs.
"""

from sealserve.serving.versions.configuration import Load, ServedModelConfig
from sealserve.serving.versions.manager import VersionManager
from sealserve.serving.versions.model_config import read_model_server_config, served_models, version_policy
from sealserve.serving.versions.model_service import ModelService
from sealserve.serving.versions.policy import All, Latest, Specific
from sealserve.serving.versions.sources import PlainSource, SealedSource, Source

__all__ = [
    "All",
    "Latest",
    "Load",
    "ModelService",
    "PlainSource",
    "SealedSource",
    "ServedModelConfig",
    "Source",
    "Specific",
    "VersionManager",
    "read_model_server_config",
    "served_models",
    "version_policy",
]
