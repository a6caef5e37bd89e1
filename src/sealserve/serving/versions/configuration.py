"""What the version manager is told of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sealserve.serving.engine import LoadedModel
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.versions.policy import Latest, Policy
from sealserve.serving.versions.sources import Source


@dataclass(frozen=True)
class ServedModelConfig:
    """One model.

    :ivar source: where its versions lie. :ivar policy: which of them are wanted.
    :ivar labels: names for versions. :ivar engine: what loads it, as the caller's :data:`Load` understands it.
    """

    name: str
    source: Source
    policy: Policy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    engine: str = "openvino"

    @property
    def content(self) -> tuple[Source, str]:
        """If this changes, versions that are loaded are not those meant any more, whatever their numbers."""
        return self.source, self.engine


Load = Callable[[ServedModelConfig, int, ModelFiles], LoadedModel]
"""Makes a version ready to answer: engine, warm-up, batching. Called in several threads; may raise anything."""
