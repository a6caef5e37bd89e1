"""Which cluster, and as whom: read from the kubeconfig.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config

from sealserve.kubernetes.live.errors import KubeconfigError

_USUAL = "~/.kube/config"


def load(configuration: Configuration, kubeconfig: Path | None, context: str | None) -> None:
    """Read ``kubeconfig``, or those that ``KUBECONFIG`` names, or ``~/.kube/config``, or else a pod's own account.

    :param context: one of its contexts; the current one if not given.
    :raises KubeconfigError: there is none, it has no such context, or it cannot be read.
    """
    listed = os.environ.get("KUBECONFIG") or _USUAL
    candidates = [kubeconfig] if kubeconfig is not None else [Path(each) for each in listed.split(os.pathsep) if each]
    if not any(each.expanduser().exists() for each in candidates):
        if kubeconfig is None and context is None and _load_account(configuration):
            return
        raise KubeconfigError(
            f"there is no kubeconfig {' nor '.join(map(str, candidates))}",
            hint="It says where the cluster is, as kubectl needs it: name it with --kubeconfig, or in KUBECONFIG.",
        )
    files = os.pathsep.join(map(str, candidates))
    try:
        if context is not None:
            _require_context(files, context)
        load_kube_config(  # type: ignore[no-untyped-call]
            config_file=files,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (ConfigException, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        # The parser quotes the file, and what stands in it may be a secret.
        problem = "it is no YAML" if isinstance(error, yaml.YAMLError) else str(error)
        raise KubeconfigError(
            f"the kubeconfig cannot be used: {problem}",
            hint="Try `kubectl config get-contexts`; name another with --kubeconfig or --context.",
        ) from error


def _require_context(files: str, context: str) -> None:
    contexts, _ = list_kube_config_contexts(config_file=files)  # type: ignore[no-untyped-call]
    names = [str(each["name"]) for each in contexts]
    if context not in names:
        raise KubeconfigError(
            f"the kubeconfig has no context {context}",
            hint=f"Name another with --context. It has {', '.join(names) or 'none'}.",
        )


def _load_account(configuration: Configuration) -> bool:
    """Whether this is a pod with an account of its own."""
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        return False
    return True
