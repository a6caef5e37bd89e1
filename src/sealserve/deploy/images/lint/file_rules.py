"""Which files the enclave opens beside those that the host may choose: trusted and encrypted ones, mounts and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sealserve.deploy.images.lint.allowed_rules import ALLOWED_DEVICE
from sealserve.deploy.images.lint.document import Variant
from sealserve.deploy.images.lint.findings import (
    BAD_URI,
    Rule,
    Weakness,
    Weaknesses,
    arguments,
    covers,
    is_whole_tree,
    path_of,
    program_argument,
    runs,
    uri_text,
)

PARTLY_SEALED = Rule(
    "partly-sealed-model",
    "error",
    "Only one file of the model is encrypted. The weights of a SavedModel are in variables/, which stay in the clear "
    "and can be exchanged.",
    "Seal the model's whole directory, and mount the directory.",
)
UNSEALED = Rule(
    "unsealed-file",
    "error",
    "The program is told to use it, and it is on no encrypted mount: the host reads it, or it is in the image for "
    "everybody who has the image.",
    'Seal it and mount it: { type = "encrypted", path = ..., uri = ..., key_name = "default" }.',
)
KEY_IN_MANIFEST = Rule(
    "key-in-manifest",
    "error",
    "The key of encrypted mounts stands in the manifest, which everybody who has the image reads.",
    "Take it out, and let the key broker give the key after attestation. It has been seen: seal anew under another.",
)
SIGNER_KEY = Rule(
    "signer-key",
    "warning",
    "Every enclave of the same signer on the same machine opens these files: older versions too, and debug ones.",
    "Use a key of the key broker, or _sgx_mrenclave for files that no other enclave needs.",
)
OLDER_FILES = Rule(
    "older-files",
    "note",
    "Gramine cannot tell an older sealed file from the current one: the host can put yesterday's model back.",
    "Seal under a new key for each version that must not come back; or use a server that compares the model with the "
    "digest that the broker names, as sealserve's own does.",
)
SHARED_MEMORY = Rule(
    "untrusted-shared-memory",
    "warning",
    "Memory that the host reads and writes while the program uses it.",
    "Take the mount out unless all that goes through it is encrypted and authenticated.",
)
HOST_PSEUDO_FILES = Rule(
    "host-pseudo-files",
    "error",
    "The host's own /proc, /sys or /dev, with whatever it says in them, takes the place of Gramine's.",
    "Take the mount out: Gramine has /proc, /sys and /dev of its own.",
)
NO_MEMORY_FILES = Rule(
    "no-memory-files",
    "warning",
    "sealserve's replica unseals into files in the enclave's own memory, and does not start without a place for them.",
    'Add { type = "tmpfs", path = "/tmp" } to fs.mounts, without a uri.',
)
BROAD_TRUST = Rule(
    "broad-trust",
    "warning",
    "Far more is trusted than the program needs: every tool in it can be loaded, and the measurement changes with "
    "every package.",
    "Name the directories and libraries that the program loads.",
)
TRUSTED_LIBRARIES = Rule(
    "all-libraries-trusted",
    "note",
    "Every library of the distribution can be loaded, and an update of any changes the measurement.",
    "Name the libraries that the program loads: `sealserve image manifest --root /` finds them inside the image.",
)
TRUSTED_SECRET = Rule(
    "secret-in-image",
    "error",
    "A trusted file lies in the image in the clear: the private key or password in it belongs to everybody who has "
    "the image.",
    "Take it out of the image, and make a new one. Seal it, and mount it encrypted.",
)

_PRIVATE = re.compile(
    r"\.(key|p12|pfx|jks)$|(private|server|client|ca|wrap|enclave)[_-]?key(\.pem)?$|(^|/)(password|secret|token)s?(\.txt)?$"
)
_LIBRARIES = re.compile(r"/(usr/)?lib(64|/x86_64-linux-gnu)/|/usr/(local/)?lib64/")


_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True)
class _Mount:
    type: str
    path: str
    uri: object
    key_name: object


def _mounts(variant: Variant) -> Iterator[_Mount]:
    root = variant.get("fs.root")
    entries = [*variant.entries("fs.mounts"), *variant.entries("fs.mount")]
    if isinstance(root, dict):
        entries.append({"path": "/", **root})
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            kind = entry.get("type", "chroot")
            yield _Mount(kind if isinstance(kind, str) else "", entry["path"], entry.get("uri"), entry.get("key_name"))


def file_weaknesses(variant: Variant) -> Weaknesses:
    """Of one variant of a manifest."""
    yield from _trusted(variant)
    yield from _mounted(variant)
    yield from _unsealed(variant)
    for key, _ in variant.settings():
        if key.startswith("fs.insecure__keys.") or key == "fs.insecure__protected_files_key":
            yield Weakness(KEY_IN_MANIFEST, key, "the key has its value here")
    if variant.get("sgx.insecure__protected_files_key"):
        yield Weakness(KEY_IN_MANIFEST, "sgx.insecure__protected_files_key", "the key has its value here")


def _trusted(variant: Variant) -> Weaknesses:
    key = "sgx.trusted_files"
    for entry in variant.entries(key):
        uri = uri_text(entry)
        path = path_of(uri)
        if path is None:
            yield Weakness(BAD_URI, key, f"{uri or 'an entry'} is no URI of a file", uri)
        elif is_whole_tree(path):
            yield Weakness(BROAD_TRUST, key, f"{uri} is trusted as a whole", uri)
        elif _LIBRARIES.fullmatch(path):
            yield Weakness(TRUSTED_LIBRARIES, key, f"{uri} is trusted as a whole", uri)
        elif _PRIVATE.search(path.lower()) and not path.endswith((".py", ".pyc", ".pub", ".so", "/")):
            yield Weakness(TRUSTED_SECRET, key, f"{uri} is a trusted file", uri)


def _mounted(variant: Variant) -> Weaknesses:
    key = "fs.mounts"
    sealed = False
    if "sealserve" in arguments(variant) and not any(
        mount.type == "tmpfs" and mount.path == "/tmp" and mount.uri is None  # noqa: S108 - the enclave's
        for mount in _mounts(variant)
    ):
        yield Weakness(NO_MEMORY_FILES, key, "there is no tmpfs at /tmp")
    for mount in _mounts(variant):
        where = "fs.root" if mount.path == "/" else key
        path = path_of(mount.uri)
        if mount.type == "encrypted":
            sealed = sealed or mount.key_name not in ("_sgx_mrenclave", "_sgx_mrsigner")
            if mount.path.endswith(_GRAPHS):
                yield Weakness(PARTLY_SEALED, where, f"only {mount.path} is encrypted", mount.path)
            if mount.key_name == "_sgx_mrsigner":
                yield Weakness(SIGNER_KEY, where, f"{mount.path} is under the signer's key", mount.path)
        elif mount.type == "chroot" and isinstance(mount.uri, str) and mount.uri.startswith("dev:"):
            yield Weakness(ALLOWED_DEVICE, where, f"{mount.uri}, a device, is mounted", mount.uri)
        elif mount.type == "untrusted_shm":
            yield Weakness(SHARED_MEMORY, where, f"{mount.path} is shared with the host", mount.path)
        elif mount.type == "chroot" and path and any(covers(top, path) for top in ("/proc", "/sys", "/dev")):
            yield Weakness(HOST_PSEUDO_FILES, where, f"{mount.uri} is the host's", mount.uri)
    for entry in variant.entries("sgx.protected_files"):  # what encrypted mounts were called before
        uri = uri_text(entry)
        if uri.endswith(_GRAPHS):
            yield Weakness(PARTLY_SEALED, "sgx.protected_files", f"only {uri} is encrypted", uri)
    if sealed or variant.get("sgx.protected_files"):
        key = key if sealed else "sgx.protected_files"
        yield Weakness(OLDER_FILES, key, "there are encrypted mounts", "encrypted")


def _unsealed(variant: Variant) -> Weaknesses:
    """Files that tensorflow_model_server is told to use, and that must be encrypted."""
    if not runs(variant, "tensorflow_model_server"):
        return
    sealed = [mount.path for mount in _mounts(variant) if mount.type == "encrypted"]
    for option in ("ssl_config_file", "model_base_path"):
        path = program_argument(variant, option)
        if path and not any(covers(mount, path) for mount in sealed):
            if option == "model_base_path" and any(covers(path, mount) for mount in sealed):
                continue  # one file of it is: said already
            yield Weakness(UNSEALED, "loader.argv", f"{path}, of --{option}, is on no encrypted mount", option)
