"""Deployments: what runs where. One file describes it."""

from sealserve.deploy.deployment import FILE_NAME, Deployment, load_deployment
from sealserve.deploy.template import render_template

__all__ = ["FILE_NAME", "Deployment", "load_deployment", "render_template"]
