"""Which cluster, and as whom: read from the kubeconfig.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from kubernetes.client import Configuration
from kubernetes.client.rest import should_bypass_proxies
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config
from kubernetes.config.kube_config import KubeConfigMerger
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from sealserve.addresses import Address
from sealserve.kubernetes.live.errors import KubeconfigError, UncheckedServerError
from sealserve.kubernetes.plan import is_here

_USUAL = "~/.kube/config"


def load(configuration: Configuration, kubeconfig: Path | None, context: str | None) -> None:
    """Read ``kubeconfig``, or those that ``KUBECONFIG`` names, or ``~/.kube/config``, or else a pod's own account.

    A server on this machine is reached by no proxy that the environment names, as kubectl does it.

    :param context: one of its contexts; the current one if not given.
    :raises KubeconfigError: there is none, it has no such context, or it cannot be read.
    :raises UncheckedServerError: nobody would check who renews the login.
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
        _require_known_issuer(files, context)
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
    by_environment = Configuration(host=configuration.host).proxy
    if configuration.proxy == by_environment and _is_here(_server(configuration)):
        configuration.proxy = None


def unchecked(configuration: Configuration) -> str | None:
    """Why anybody on the way could answer in the API server's place; None if that is checked, or there is no way.

    :raises KubeconfigError: where the server is cannot be read.
    """
    server = _server(configuration)
    if server.scheme == "https":
        if configuration.verify_ssl:
            return None
        return f"the kubeconfig says not to check who answers as {configuration.host} (insecure-skip-tls-verify)"
    way = f"the kubeconfig leads to {configuration.host} without TLS"
    if not _is_here(server):
        return f"{way}, where anybody on the way reads and changes all"
    if configuration.proxy and not should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return f"{way} and by a proxy (proxy-url), which reads and changes all"
    return None


def _server(configuration: Configuration) -> Url:
    """:raises KubeconfigError: it cannot be read."""
    try:
        server = parse_url(configuration.host)
    except LocationParseError as error:
        raise KubeconfigError(f"the kubeconfig's server is no URL: {configuration.host!r}") from error
    if server.scheme == "https" and not configuration.host.startswith("https"):
        # The library would not look at the kubeconfig's authority, and take any that this machine knows.
        raise KubeconfigError(
            f"the kubeconfig's server is not written as it should: {configuration.host!r}",
            hint="It begins with https:// in small letters.",
        )
    return server


def _is_here(server: Url) -> bool:
    return is_here(Address((server.host or "").strip("[]"), 0), wildcard=False)


def _require_known_issuer(files: str, context: str | None) -> None:
    """Without an authority, the library asks whoever answers as a login's issuer where to send its refresh token.

    :raises UncheckedServerError: the context's login is of this kind.
    """
    configuration = KubeConfigMerger(files).config  # type: ignore[no-untyped-call]
    chosen = configuration["contexts"].get_with_name(context or configuration["current-context"])["context"]
    user = chosen.safe_get("user") and configuration["users"].get_with_name(chosen["user"], safe=True)
    login = user and user.safe_get("user") and user["user"].safe_get("auth-provider")
    if not login or login.get("name") != "oidc":
        return
    given = login.get("config") or {}
    named = any(given.get(f"idp-certificate-authority{form}") for form in ("", "-data"))
    if not named or str(given.get("idp-issuer-url")).lower().startswith("http:"):
        raise UncheckedServerError(
            "nobody would check who answers as the issuer of the kubeconfig's login (auth-provider oidc)",
            hint="Name its authority there (idp-certificate-authority), with an https:// URL; or log in by a program "
            "(exec), such as kubelogin.",
        )


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
