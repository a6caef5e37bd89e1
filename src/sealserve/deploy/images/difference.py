"""What is different between two builds: which measured file, and which setting of the manifest.

MRENCLAVE alone says that something is. A signed manifest (``.manifest.sgx``) has the SHA-256 of every trusted file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sealserve.deploy.images.lint.document import Manifest
from sealserve.deploy.images.lint.findings import uri_text
from sealserve.errors import InputError

_FILES = "sgx.trusted_files"


@dataclass(frozen=True)
class Difference:
    """From one signed manifest to another.

    :param added: URIs. :param removed: URIs. :param changed: URIs whose content is another.
    :param settings: dotted key → the values before and after, as JSON-ready data; None where there is none.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    settings: Mapping[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.settings)

    def as_dict(self) -> dict[str, Any]:
        """The difference as scripts read it."""
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "settings": {key: {"before": before, "after": after} for key, (before, after) in self.settings.items()},
        }


def compare(before: Manifest, after: Manifest) -> Difference:
    """Compare two signed manifests.

    :raises InputError: one of them is not signed: a trusted file has no hash.
    """
    old, new = _hashes(before), _hashes(after)
    one, other = _settings(before), _settings(after)
    return Difference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(uri for uri in old.keys() & new.keys() if old[uri] != new[uri])),
        settings={
            key: (one.get(key), other.get(key))
            for key in sorted(one.keys() | other.keys())
            if one.get(key) != other.get(key)
        },
    )


def _hashes(manifest: Manifest) -> dict[str, str]:
    found = {}
    for entry in manifest.variants[0].entries(_FILES):
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str):
            raise InputError(
                f"the manifest is not signed: it has no hash of {uri_text(entry) or 'a trusted file'}",
                hint="Give the .manifest.sgx files that `gramine-sgx-sign` wrote.",
            )
        found[uri_text(entry)] = digest.lower()
    return found


def _settings(manifest: Manifest) -> dict[str, Any]:
    # As JSON and back, so that what is printed is what was compared: TOML has dates and NaN.
    return {
        key: json.loads(json.dumps(value, default=str))
        for key, value in manifest.variants[0].settings()
        if key != _FILES
    }
