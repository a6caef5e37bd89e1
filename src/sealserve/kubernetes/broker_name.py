"""What of a deployment an entry of the cluster's DNS says: the key broker's names, and where it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from sealserve.addresses import is_dns_name
from sealserve.deploy import Deployment
from sealserve.deploy.images.programs import brokers_of
from sealserve.errors import ConfigurationError, InputError
from sealserve.kubernetes.live.hosts_entry import HostsEntry
from sealserve.kubernetes.plan import is_here


def entry_owner(deployment: Deployment) -> str:
    """Whose the entry is: namespace and name."""
    namespace = deployment.kubernetes.namespace if deployment.kubernetes is not None else None
    return f"{namespace or deployment.name}/{deployment.name}"


def hosts_entry(deployment: Deployment, *, addresses: Sequence[str] = (), names: Sequence[str] = ()) -> HostsEntry:
    """The entry for a deployment's broker.

    :param addresses: where it is; that of ``broker.listen`` if none. :param names: its names; those of
        ``image.brokers`` if none.
    :raises InputError: one is no address or no name. :raises ConfigurationError: the deployment does not say them.
    """
    wrong = [name for name in names if not is_dns_name(name) or _address(name) is not None]
    wrong += [address for address in addresses if _address(address) is None]
    if wrong:
        raise InputError(
            f"{wrong[0]!r} is not what an entry of hosts can have",
            hint="Give IP addresses with --address and DNS names with --name.",
        )
    found = [name.lower() for name in names] or [
        broker.host.lower() for broker in brokers_of(deployment) if _address(broker.host) is None
    ]
    if not found:
        raise ConfigurationError(
            "image.brokers has no DNS name that pods would look up",
            hint="Give one with --name, or set image.brokers to the name that the broker's certificate has.",
        )
    listen = deployment.broker.listen
    given = [_address(address) or "" for address in addresses]
    if not given and (own := _address(listen.host)) is not None and not is_here(listen):
        given = [own]
    if not given:
        raise ConfigurationError(
            f"broker.listen ({listen}) does not say where in the network the key broker is",
            hint="Give its address: --address 192.0.2.10.",
        )
    return HostsEntry(entry_owner(deployment), tuple(dict.fromkeys(given)), tuple(dict.fromkeys(found)))


def names_known_already(deployment: Deployment, entry: HostsEntry) -> list[str]:
    """Warnings of names in the entry that the cluster's DNS has by itself, for a Service of this deployment."""
    section = deployment.kubernetes
    if section is None:
        return []
    made = {}
    if section.broker is not None:
        made["kubernetes.broker"] = section.namespace or deployment.name
    if section.brokers is not None:
        made["kubernetes.brokers"] = section.brokers.namespace or f"{deployment.name}-keys"
    return [
        f"{name} is the name of a Service already, which {setting} makes: pods may get its address or this entry's. "
        "Without the entry (`sealserve k8s dns undo`) there is one answer alone"
        for setting, namespace in made.items()
        for name in entry.names
        if name.removesuffix(".cluster.local") == f"{deployment.name}-broker.{namespace}.svc"
    ]


def split_place(text: str) -> tuple[str, str]:
    """Namespace and name. :raises InputError: it is not written so."""
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise InputError(f"{text!r} is no ConfigMap", hint="Write NAMESPACE/NAME, such as kube-system/coredns.")
    return namespace, name


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
