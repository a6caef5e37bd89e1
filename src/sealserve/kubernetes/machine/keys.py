"""Signing keys of package repositories: taken only if they are the ones that are expected.

What gpg took is written anew: apt reads armour more loosely than gpg, and would take keys from a downloaded file that
gpg passes over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from sealserve.errors import TrustError
from sealserve.kubernetes.machine.host import Host


class SigningKeyError(TrustError):
    """A repository's key is another one than expected."""


def signing_key(url: str, fingerprint: str) -> Callable[[Host], bytes]:
    """What fetches the key of a repository, in the form that apt reads.

    :param fingerprint: of the one primary key in it, 40 hexadecimal digits in capitals.
    """

    def fetch(host: Host) -> bytes:
        with tempfile.TemporaryDirectory(prefix="sealserve-key-") as home:
            fetched, taken = Path(home, "fetched"), Path(home, "taken")
            gpg = ("gpg", "--homedir", home, "--no-autostart", "--batch", "--quiet")
            # First, or ~/.curlrc could say otherwise, and where to write.
            secure = ("--disable", "--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--tlsv1.2")
            host.do("curl", *secure, "--max-time", "60", "--output", str(fetched), url)
            host.do(*gpg, "--import", str(fetched))
            found = _primary(host.read(*gpg, "--list-keys", "--with-colons"))
            if found != [fingerprint]:
                raise SigningKeyError(
                    f"the key at {url} is {', '.join(found) or 'none'}, and should be {fingerprint}",
                    hint="Nothing was installed from there. If its owner announced a new key, take a sealserve that "
                    "knows it.",
                )
            host.do(*gpg, "--output", str(taken), "--export", fingerprint)
            return taken.read_bytes()

    return fetch


def _primary(listing: str) -> list[str]:
    """The fingerprints of primary keys in gpg's listing (GnuPG, doc/DETAILS)."""
    found, wanted = [], False
    for fields in (line.split(":") for line in listing.splitlines()):
        if fields[0] == "pub":
            wanted = True
        elif fields[0] == "fpr" and wanted:
            found.append(fields[9])
            wanted = False
    return found
