"""What a machine has and lacks for running replicas in SGX, in TDX, or on the simulated platform."""

from __future__ import annotations

from sealserve.deploy.doctor.examination import Report, examine
from sealserve.deploy.doctor.finding import Finding, Level
from sealserve.deploy.doctor.machine import Machine

__all__ = ["Finding", "Level", "Machine", "Report", "examine"]
