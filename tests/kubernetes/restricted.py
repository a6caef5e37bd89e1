"""The *restricted* Pod Security Standard, as far as it concerns pods of Linux, read from
https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"}
_VOLUMES |= {"secret"}
_PROFILES = {"RuntimeDefault", "Localhost"}


def violations(pod: dict[str, Any]) -> list[str]:
    """What of a pod's ``spec`` the standard forbids; nothing if it is within it."""
    return [*_of_pod(pod), *(found for container in _containers(pod) for found in _of_container(pod, container))]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        *pod["containers"],
        *pod.get("initContainers", []),
        *pod.get("ephemeralContainers", []),
    ]


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    for volume in pod.get("volumes", []):
        if not (set(volume) - {"name"}) <= _VOLUMES:
            yield f"volume {volume['name']}"
    context = pod.get("securityContext", {})
    yield from (f"pod {name}" for name in ("sysctls", "windowsOptions", "seLinuxOptions") if name in context)
    if context.get("runAsUser") == 0:
        yield "pod runs as root"


def _of_container(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    own, pods, name = container.get("securityContext", {}), pod.get("securityContext", {}), container["name"]
    if own.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True or own.get("runAsUser") == 0:
        yield f"{name} may be root"
    if own.get("seccompProfile", pods.get("seccompProfile", {})).get("type") not in _PROFILES:
        yield f"{name} has no seccomp profile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield f"{name} has capabilities"
    if own.get("procMount", "Default") != "Default" or {"seLinuxOptions", "appArmorProfile"} & set(own):
        yield f"{name} has a profile of its own"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name} has a port of the host"
    probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "readiness", "liveness")]
    if any(handler.get("host") for probe in probes for handler in probe.values() if isinstance(handler, dict)):
        yield f"{name} has a probe to another host"
