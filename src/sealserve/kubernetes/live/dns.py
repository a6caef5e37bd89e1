"""The key broker's name in the cluster's own DNS: an entry of CoreDNS' plugin ``hosts``, put in and taken out.

It is for names that no DNS of the cluster knows, as in the original. ``kubernetes.broker`` needs none of this.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.corefile import Block, Corefile, CorefileError, read_corefile
from sealserve.kubernetes.live.errors import ClusterRefusedError, ConflictError
from sealserve.kubernetes.live.hosts_entry import Edit, HostsEntry, block_for, the_hosts, with_entry, without_entry
from sealserve.kubernetes.live.kinds import CONFIG_MAP, Kind
from sealserve.kubernetes.yaml_text import Object

COREFILE: Final = "Corefile"
CUSTOM: Final = "coredns-custom"
"""A ConfigMap beside CoreDNS' own, for additions: AKS has it, and k3s takes it."""

_OWN_KEY = "sealserve.override"
_ATTEMPTS = 5
_DAEMON_SET = Kind("apps/v1", "DaemonSet", "daemonsets")
_BY_HAND = (
    "kubernetes.broker in deployment.yaml gives the broker a name inside the cluster without its DNS being changed."
)


@dataclass(frozen=True)
class Place:
    """A text in a ConfigMap. :ivar part: it stands inside of a server block by ``import``."""

    namespace: str
    config_map: str
    key: str
    part: bool = False

    def __str__(self) -> str:
        return f"{self.key} in ConfigMap {self.namespace}/{self.config_map}"


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be.

    :ivar changed: whether the cluster was (with a dry run: would be) changed. :ivar diff: of the text, unified.
    :ivar reloads: whether CoreDNS reads its configuration again by itself.
    :ivar warnings: what may keep the entry from working, or was not ours.
    """

    place: Place
    changed: bool
    diff: str
    reloads: bool
    warnings: tuple[str, ...]


def apply_entry(
    cluster: Cluster, entry: HostsEntry, *, namespace: str, config_map: str, dry_run: bool = False
) -> Outcome:
    """Put the entry into CoreDNS' configuration, whatever else is in it. A second time changes nothing.

    :param config_map: CoreDNS' own, with a key ``Corefile``. :param dry_run: nothing is written.
    :raises CorefileError: it cannot be read, or not be changed without a risk. :raises ConflictError: others go on
        changing it. :raises ForbiddenError: this account may not change it.
    """

    def change(maps: dict[str, Object]) -> tuple[Place, Edit]:
        place = _place(maps, entry, namespace=namespace, config_map=config_map)
        return place, with_entry(_text(maps, place), entry, part=place.part)

    found = _change(cluster, change, namespace, config_map, dry_run=dry_run)
    block = block_for(found.corefile, entry.names)
    warnings = tuple(_warnings(cluster, found, block, entry))
    return Outcome(found.place, found.changed, found.diff, _reloads(found.corefile, block), warnings)


def undo_entry(cluster: Cluster, owner: str, *, namespace: str, config_map: str, dry_run: bool = False) -> Outcome:
    """Take a deployment's entry out again, and leave everything else as it is, byte for byte.

    :param owner: as in :class:`HostsEntry`. :raises CorefileError: the comments around the entry are damaged.
    """

    def change(maps: dict[str, Object]) -> tuple[Place, Edit]:
        for place in _texts(maps, namespace, config_map):
            edit = without_entry(_text(maps, place), owner, part=place.part)
            if edit is not None:
                return place, edit
        own = Place(namespace, config_map, COREFILE)
        return own, Edit(_text(maps, own))

    found = _change(cluster, change, namespace, config_map, dry_run=dry_run)
    reloads = any(_reloads(found.corefile, block) for block in found.corefile.blocks)
    return Outcome(found.place, found.changed, found.diff, reloads, tuple(_made_by_hand(found.edit)))


# --- reading and writing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """:ivar own: CoreDNS' ConfigMap as it was, and :ivar corefile: what it said. :ivar before: the text changed."""

    place: Place
    edit: Edit
    own: Object
    corefile: Corefile
    before: str

    @property
    def changed(self) -> bool:
        return self.edit.text != self.before

    @property
    def diff(self) -> str:
        before, after = self.before.splitlines(keepends=True), self.edit.text.splitlines(keepends=True)
        lines = difflib.unified_diff(before, after, str(self.place), str(self.place))
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _change(
    cluster: Cluster,
    change: Callable[[dict[str, Object]], tuple[Place, Edit]],
    namespace: str,
    config_map: str,
    *,
    dry_run: bool,
) -> _Change:
    """Read, change, and write if nobody else wrote meanwhile; else again."""
    attempt = 1
    while True:
        maps = _read(cluster, namespace, config_map)
        place, edit = change(maps)
        own = maps[config_map]
        made = _Change(place, edit, own, read_corefile(own["data"][COREFILE]), _text(maps, place))
        if dry_run or not made.changed:
            return made
        version = maps[place.config_map]["metadata"]["resourceVersion"]
        text = edit.text if edit.text or place.key == COREFILE else None
        content = {"metadata": {"resourceVersion": version}, "data": {place.key: text}}
        try:
            cluster.patch(CONFIG_MAP, place.config_map, content, namespace=namespace)
        except ConflictError:
            if attempt == _ATTEMPTS:
                raise
            attempt += 1
        else:
            return made


def _read(cluster: Cluster, namespace: str, config_map: str) -> dict[str, Object]:
    found = cluster.get(CONFIG_MAP, config_map, namespace=namespace)
    if found is None or COREFILE not in (found.get("data") or {}):
        raise CorefileError(
            f"there is no ConfigMap {namespace}/{config_map} with a Corefile: this cluster's DNS is not CoreDNS, or it "
            "is configured elsewhere",
            hint=f"Name its ConfigMap with --config-map if it has one. {_BY_HAND}",
        )
    maps = {config_map: found}
    if "custom/" in found["data"][COREFILE] and config_map != CUSTOM:
        custom = cluster.get(CONFIG_MAP, CUSTOM, namespace=namespace)
        if custom is not None:
            maps[CUSTOM] = custom
    return maps


def _text(maps: dict[str, Object], place: Place) -> str:
    return str((maps[place.config_map].get("data") or {}).get(place.key, ""))


def _texts(maps: dict[str, Object], namespace: str, config_map: str) -> Iterator[Place]:
    """All texts in which an entry of ours can be."""
    yield Place(namespace, config_map, COREFILE)
    if CUSTOM in maps:
        for key in sorted(maps[CUSTOM].get("data") or {}):
            if key.endswith(".override"):
                yield Place(namespace, CUSTOM, key, part=True)


def _place(maps: dict[str, Object], entry: HostsEntry, *, namespace: str, config_map: str) -> Place:
    """Where the entry belongs: where ``hosts`` is already, else among the additions if there is a place for them."""
    own = Place(namespace, config_map, COREFILE)
    corefile = read_corefile(_text(maps, own))
    block = block_for(corefile, entry.names)
    if (line := next(_in_snippets(corefile, block, "hosts"), None)) is not None:
        raise CorefileError(
            f"line {line} of the Corefile has hosts in a snippet, which other server blocks may import as well",
            hint="Put the entry there by hand, or take hosts out of the snippet.",
        )
    if the_hosts(block) is not None or CUSTOM not in maps:
        return own
    patterns = [directive.arguments[0] for directive in block.named("import") if directive.arguments]
    parts = [place for place in _texts(maps, namespace, config_map) if place.part and _imported(place.key, patterns)]
    for place in parts:
        if "hosts" in _text(maps, place).split():
            return place
    return Place(namespace, CUSTOM, _OWN_KEY, part=True) if _imported(_OWN_KEY, patterns) else own


def _imported(key: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(f"custom/{key}", pattern.removeprefix("/etc/coredns/")) for pattern in patterns)


def _in_snippets(corefile: Corefile, block: Block, name: str, seen: set[str] | None = None) -> Iterator[int]:
    seen = set() if seen is None else seen
    for directive in block.named("import"):
        for snippet in directive.arguments[:1]:
            if snippet in corefile.snippets and snippet not in seen:
                seen.add(snippet)
                inner = corefile.snippets[snippet]
                yield from (found.tokens[0].line for found in inner.named(name))
                yield from _in_snippets(corefile, inner, name, seen)


def _reloads(corefile: Corefile, block: Block) -> bool:
    return bool(block.named("reload")) or any(True for _ in _in_snippets(corefile, block, "reload"))


# --- what should be known -------------------------------------------------------------------------------------------


_RESETS = {
    "eks.amazonaws.com/component": "EKS puts its own Corefile back when its add-on is updated: apply again then",
    "objectset.rio.cattle.io/hash": "k3s puts its own Corefile back when its server starts: apply again then",
    "addonmanager.kubernetes.io/mode": "an add-on manager puts its own Corefile back within minutes",
}


def _made_by_hand(edit: Edit) -> Iterator[str]:
    if edit.by_hand:
        yield f"the entry was changed by hand, and what it said is gone: {'; '.join(edit.by_hand)}"


def _warnings(cluster: Cluster, found: _Change, block: Block, entry: HostsEntry) -> Iterator[str]:
    yield from _made_by_hand(found.edit)
    place, metadata = found.place, found.own["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    if not place.part:
        for mark, warning in _RESETS.items():
            if mark in marks and marks[mark] != "EnsureExists":
                yield warning
    if not place.part:
        for directive in block.named("import"):
            pattern = " ".join(directive.arguments)
            if "*" in pattern or "/" in pattern:
                yield f"what {pattern} brings into the block cannot be seen from here; hosts must not be among it"
    if place.config_map != "node-local-dns" and _has_node_cache(cluster):
        outside = [name for name in entry.names if not name.endswith((".cluster.local", ".svc"))]
        if outside:
            yield (
                f"pods ask NodeLocal DNSCache, which asks for {' and '.join(outside)} past CoreDNS: apply with "
                "--config-map kube-system/node-local-dns too"
            )


def _has_node_cache(cluster: Cluster) -> bool:
    try:
        return cluster.get(_DAEMON_SET, "node-local-dns", namespace="kube-system") is not None
    except ClusterRefusedError:
        return False  # it is not known
