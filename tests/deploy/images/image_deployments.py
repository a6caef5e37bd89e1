"""Deployments that images are made of, for tests."""

from __future__ import annotations

from typing import Any

from sealserve.deploy import Deployment

SMALLEST: dict[str, Any] = {"name": "mine", "tee": "sgx", "model": {"name": "classifier", "path": "model"}}


def deployment(**sections: Any) -> Deployment:
    """The smallest deployment in enclaves, with these settings in its sections."""
    merged = dict(SMALLEST)
    for name, value in sections.items():
        merged[name] = {**SMALLEST.get(name, {}), **value} if isinstance(value, dict) else value
    return Deployment.model_validate(merged)
