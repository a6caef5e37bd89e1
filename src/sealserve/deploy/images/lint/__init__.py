"""What is weak about a Gramine manifest, whoever wrote it, and how to mend it."""

from __future__ import annotations

from sealserve.deploy.images.lint.allowed_rules import allowed_weaknesses
from sealserve.deploy.images.lint.document import Manifest, parse_manifest, read_manifest
from sealserve.deploy.images.lint.enclave_rules import enclave_weaknesses
from sealserve.deploy.images.lint.file_rules import file_weaknesses
from sealserve.deploy.images.lint.findings import SEVERITIES, Finding, Rule, Severity
from sealserve.deploy.images.lint.host_rules import host_weaknesses

__all__ = ["SEVERITIES", "Finding", "Manifest", "Rule", "Severity", "lint", "parse_manifest", "read_manifest"]


def lint(manifest: Manifest) -> list[Finding]:
    """Every weakness once, the worst first, and in the order of their lines."""
    found: dict[tuple[str, str, str], Finding] = {}
    for variant in manifest.variants:
        for weaknesses in (host_weaknesses, allowed_weaknesses, file_weaknesses, enclave_weaknesses):
            for weak in weaknesses(variant):
                line = manifest.line(weak.key, weak.value)
                found.setdefault((weak.rule.name, weak.key, weak.what), Finding(weak.rule, weak.key, line, weak.what))
    return sorted(found.values(), key=lambda finding: (SEVERITIES.index(finding.rule.severity), finding.line))
