"""A signed image as it lies on a disk: its SIGSTRUCT, and the signed manifest beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sealserve.deploy.images.difference import Difference, compare
from sealserve.deploy.images.lint.document import Manifest, read_manifest
from sealserve.deploy.images.sigstruct import Sigstruct, read_sigstruct
from sealserve.errors import InputError

_SIGNED = ".manifest.sgx"


@dataclass(frozen=True)
class Measured:
    """A build.

    :param path: of its SIGSTRUCT. :param manifest: where its signed manifest lies, if it lies beside.
    """

    path: Path
    sigstruct: Sigstruct
    manifest: Path | None

    @property
    def title(self) -> str:
        """The build in a few words, for comments."""
        signed = self.sigstruct
        date = f", signed {signed.date}" if signed.date else ""
        return f"{self.path.name}: product {signed.isv_prod_id}, security version {signed.isv_svn}{date}"

    def signed_manifest(self) -> Manifest:
        """The signed manifest.

        :raises InputError: there is none, or it is not readable.
        """
        if self.manifest is None:
            raise InputError(
                f"there is no {self.path.stem}{_SIGNED} beside {self.path}, which names the measured files",
                hint="Keep both files that `gramine-sgx-sign` writes.",
            )
        return read_manifest(self.manifest)


def measure(path: Path) -> Measured:
    """Read the SIGSTRUCT of a build and check its signature.

    :param path: a ``.sig`` file, the signed manifest beside it, or a directory that holds both.
    :raises InputError: it cannot be read, or there is none or more than one in the directory.
    :raises TrustError: its signature does not hold.
    """
    if path.is_dir():
        found = sorted(path.glob("*.sig"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found)
            raise InputError(
                f"{path} holds {f'more than one .sig file: {names}' if found else 'no .sig file'}",
                hint="Name the file itself."
                if found
                else "Sign the image first; the file is written beside the signed manifest.",
            )
        path = found[0]
    elif path.name.endswith(_SIGNED):
        path = path.with_name(f"{path.name.removesuffix(_SIGNED)}.sig")
    manifest = path.with_name(f"{path.stem}{_SIGNED}")
    return Measured(path, read_sigstruct(path), manifest if manifest.exists() else None)


def difference(before: Measured, after: Measured) -> Difference:
    """What changed from one build to the other.

    :raises InputError: a signed manifest is missing or not readable.
    """
    return compare(before.signed_manifest(), after.signed_manifest())
