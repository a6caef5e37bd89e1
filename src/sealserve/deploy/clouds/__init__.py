"""Clouds and machines: what differs between them, as data, and what is rendered from it.

``load_profile("alibaba-g7t:cn-hangzhou")`` gives addresses, device paths and sizes; :func:`render_qcnl` the
configuration of Intel's quote provider, and :func:`render_setup` a script that prepares the machine.
"""

from __future__ import annotations

from sealserve.deploy.clouds.known import load_profile, profile_names
from sealserve.deploy.clouds.profile import CloudProfile
from sealserve.deploy.clouds.qcnl import QcnlSettings, parse_qcnl, render_qcnl
from sealserve.deploy.clouds.setup import render_setup

__all__ = [
    "CloudProfile",
    "QcnlSettings",
    "load_profile",
    "parse_qcnl",
    "profile_names",
    "render_qcnl",
    "render_setup",
]
