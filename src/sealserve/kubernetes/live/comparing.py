"""What an apply would change, as the API server's dry run says it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.connection import ignore
from sealserve.kubernetes.live.errors import ConflictError
from sealserve.kubernetes.live.handover import MADE_NAMESPACE, with_annotations, with_scale
from sealserve.kubernetes.live.kinds import DEPLOYMENT, NAMESPACE, SECRET, describe, kind_of
from sealserve.kubernetes.live.owned import KEPT_BY_APPLY, owned_objects
from sealserve.kubernetes.yaml_text import Object, without_comments

_BY_THE_SERVER = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
_HISTORY = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation in which kubectl keeps a whole object as it was once: of a Secret, every value."""
_HIDDEN, _CHANGED = "(hidden)", "(hidden, and not what is there now)"


class _Dumper(yaml.SafeDumper):
    """Text of several lines, such as nginx's configuration, with lines of its own, so that a diff is about these."""

    def represent_lines(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    def analyze_scalar(self, scalar: str) -> Any:
        analysis = super().analyze_scalar(scalar)
        # Spaces at the ends of lines, and tabs, are no reason to quote the whole text: nobody reads it back.
        if all(letter.isprintable() or letter in "\n\t" for letter in scalar):
            analysis.allow_block = True
        return analysis

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


_Dumper.add_representer(str, _Dumper.represent_lines)


@dataclass(frozen=True)
class Difference:
    """What would become of an object. :ivar text: a unified diff of YAML, without a Secret's values."""

    kind: str
    name: str
    what: Literal["created", "changed", "removed"]
    text: str


def differences(
    cluster: Cluster,
    objects: Sequence[Object],
    *,
    name: str,
    force: bool = False,
    on_conflict: Callable[[str], None] = ignore,
) -> tuple[list[Difference], bool]:
    """What applying these objects, the namespace first, would change.

    Fields that somebody else has set are shown as ``force`` would change them: only seeing is what this is for.

    :param name: the deployment's. :param on_conflict: called with an object's fields that somebody else has set, which
        applying refuses without ``force``.
    :returns: the differences, and whether the server has judged all of them: in a namespace that is not there yet, it
        judges nothing.
    :raises ClusterRefusedError: the server would refuse an object.
    """
    namespace = objects[0]["metadata"]["name"]
    live_namespace = cluster.get(NAMESPACE, namespace)
    found: list[Difference] = []
    for thing in objects:
        kind, metadata = kind_of(thing), thing["metadata"]
        in_new = live_namespace is None and "namespace" in metadata
        live = None if in_new else cluster.get(kind, metadata["name"], namespace=metadata.get("namespace"))
        wanted = without_comments(thing)
        if kind == DEPLOYMENT:
            wanted, _ = with_scale(wanted, live, force=force)
        if kind == NAMESPACE and (live is None or MADE_NAMESPACE in live["metadata"].get("annotations", {})):
            wanted = with_annotations(wanted, {MADE_NAMESPACE: "true"})
        after = wanted if in_new else _applied(cluster, wanted, force=force, on_conflict=on_conflict)
        found += _difference(live, after, what="created" if live is None else "changed")
    rendered = {(kind_of(thing), thing["metadata"]["name"]) for thing in objects}
    for thing in owned_objects(cluster, name=name, namespace=namespace):
        if kind_of(thing) not in KEPT_BY_APPLY and (kind_of(thing), thing["metadata"]["name"]) not in rendered:
            found += _difference(thing, None, what="removed")
    return found, live_namespace is not None


def _applied(cluster: Cluster, wanted: Object, *, force: bool, on_conflict: Callable[[str], None]) -> Object:
    try:
        return cluster.apply(wanted, dry_run=True, force=force)
    except ConflictError as error:
        if force or error.owned is None:
            raise
        on_conflict(f"{describe(wanted)}: somebody else has set {error.owned}")
        return cluster.apply(wanted, dry_run=True, force=True)


def _difference(
    before: Object | None, after: Object | None, *, what: Literal["created", "changed", "removed"]
) -> Iterable[Difference]:
    one: Object = before or after or {}
    old, new = _told(before, after)
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"live {describe(one)}", f"applied {describe(one)}", lineterm=""
    )
    if text := "\n".join(lines):
        yield Difference(one["kind"], one["metadata"]["name"], what, text)


def _told(before: Object | None, after: Object | None) -> tuple[str, str]:
    """Both as YAML, without what the server alone writes, and without values of Secrets."""
    old, new = ({} if thing is None else _cleaned(thing) for thing in (before, after))
    if SECRET.name in (old.get("kind"), new.get("kind")):
        values = old.get("data") or {}
        if new:
            new["data"] = {
                key: _HIDDEN if values.get(key) == value else _CHANGED for key, value in (new.get("data") or {}).items()
            }
        if old:
            old["data"] = dict.fromkeys(values, _HIDDEN)
    first, second = (
        yaml.dump(thing, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=1 << 30) if thing else ""
        for thing in (old, new)
    )
    return first, second


def _cleaned(thing: Object) -> Object:
    thing = {name: value for name, value in copy.deepcopy(thing).items() if name != "status"}
    metadata = {name: value for name, value in thing["metadata"].items() if name not in _BY_THE_SERVER}
    annotations = {
        name: value
        for name, value in metadata.pop("annotations", {}).items()
        if name != _HISTORY and not name.startswith("deployment.kubernetes.io/")
    }
    thing["metadata"] = metadata | ({"annotations": annotations} if annotations else {})
    return thing
