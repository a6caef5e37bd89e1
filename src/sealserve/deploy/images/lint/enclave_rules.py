"""The enclave itself: debug mode, attestation, the key broker's client, sizes, and settings that are none any more."""

from __future__ import annotations

import re

from sealserve.deploy.images.lint.document import Variant, is_open
from sealserve.deploy.images.lint.findings import (
    Rule,
    Weakness,
    Weaknesses,
    covers,
    environment,
    host_paths,
    path_of,
    uri_text,
)
from sealserve.deploy.images.lint.known_settings import is_known

DEBUG = Rule(
    "debug-enclave",
    "error",
    "The host reads and writes the enclave's memory with a debugger: nothing is protected.",
    "Set sgx.debug = false, and sign again.",
)
OPEN_DEBUG = Rule(
    "debug-open",
    "note",
    "Whether the host may read the enclave's memory is decided when the template is rendered.",
    "Fix sgx.debug = false for production.",
)
PROFILED = Rule(
    "profiled-enclave",
    "error",
    "It opens threads to the host's debugger and counters, and does not start without sgx.debug.",
    "Take it out.",
)
NO_ATTESTATION = Rule(
    "no-remote-attestation",
    "error",
    "The enclave can prove to nobody what it is: no key broker can give it a key, no client check it.",
    'Set sgx.remote_attestation = "dcap".',
)
OLD_ATTESTATION = Rule(
    "retired-attestation",
    "error",
    "EPID attestation, and the form without a kind, are retired: Intel's service is switched off, and Gramine 1.9 "
    "refuses the setting.",
    'Set sgx.remote_attestation = "dcap".',
)
OPEN_ATTESTATION = Rule(
    "attestation-open",
    "note",
    "Whether the enclave can prove what it is is decided when the template is rendered.",
    'Fix sgx.remote_attestation = "dcap".',
)
UNLISTED_AUTHORITY = Rule(
    "unlisted-authority",
    "warning",
    "The enclave cannot check, or cannot even open, the certificate authority of the key broker: it gets no key.",
    "Set SECRET_PROVISION_CA_CHAIN_PATH, and list that file under sgx.trusted_files.",
)
PRELOADED = Rule(
    "unlisted-library",
    "warning",
    "Which library is loaded depends on where it is looked for; one that cannot be opened is left out without a word, "
    "and with it what it does.",
    "Give LD_PRELOAD an absolute path, and list that under sgx.trusted_files.",
)
KEY_IN_ENVIRONMENT = Rule(
    "key-in-environment",
    "warning",
    "Without SECRET_PROVISION_SET_KEY the secret lands in an environment variable of the program and of all that it "
    "starts, and opens no encrypted mount.",
    'Set SECRET_PROVISION_SET_KEY = "default".',
)
SIZE = Rule(
    "enclave-size",
    "error",
    "The processor makes enclaves of powers of two only; signing fails.",
    'Write the next power of two, such as sgx.enclave_size = "4G".',
)
DEFAULT_SIZES = Rule(
    "default-sizes",
    "warning",
    "256 MiB and 4 threads, Gramine's defaults, are too little for a model server: it ends when they are used up.",
    "Set sgx.enclave_size and sgx.max_threads.",
)
PREHEATED = Rule(
    "preheat-with-edmm",
    "error",
    "There is no heap to load at start when memory comes later (EDMM): Gramine refuses the pair.",
    "Take one of the two out.",
)
NO_VERSION = Rule(
    "no-security-version",
    "note",
    "ISVSVN is 0, so that a policy that goes by signer and version cannot tell an older image from this.",
    "Set sgx.isvprodid and sgx.isvsvn, and raise the latter with every fix that matters.",
)
UNKNOWN = Rule(
    "unknown-setting",
    "warning",
    "Gramine 1.9 has no such setting: it refuses the manifest, or does not do what the line says. Manifests for older "
    "versions have such lines.",
    "Take it out, or write what has taken its place.",
)
BAD_HASH = Rule(
    "no-hash",
    "error",
    "The SHA-256 of a trusted file is none, and the file cannot be opened.",
    "Sign the manifest again.",
)

_SUCCESSORS = {
    "sgx.thread_num": "sgx.max_threads",
    "sgx.protected_files": 'fs.mounts with type = "encrypted"',
    "sgx.nonpie_binary": "nothing: it is always so",
    "sgx.ra_client_spid": "nothing: EPID is retired",
    "sgx.ra_client_linkable": "nothing: EPID is retired",
    "loader.pal_internal_mem_size": "nothing: the memory is found by itself",
    "loader.entrypoint": "loader.entrypoint.uri",
    "loader.preload": "loader.entrypoint.uri",
    "sgx.enable_stats": "nothing in production",
}
_SIZE = re.compile(r"(0x[0-9a-fA-F]+|\d+)([KMG]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def enclave_weaknesses(variant: Variant) -> Weaknesses:
    """Of one variant of a manifest."""
    if is_open(variant.get("sgx.debug")):
        yield Weakness(OPEN_DEBUG, "sgx.debug", "it stands in the template as an expression")
    elif variant.get("sgx.debug"):
        yield Weakness(DEBUG, "sgx.debug", "the enclave is a debug enclave", "true")
    for key in ("sgx.enable_stats", "sgx.vtune_profile"):
        if variant.get(key) is True:
            yield Weakness(PROFILED, key, f"{key} is set")
    if variant.get("sgx.profile.enable") not in {None, "none"}:
        yield Weakness(PROFILED, "sgx.profile.enable", "the enclave is profiled")
    yield from _attestation(variant)
    yield from _broker_client(variant)
    yield from _sizes(variant)
    if not variant.get("sgx.isvsvn"):
        yield Weakness(NO_VERSION, "sgx.isvsvn", "no security version is given")
    for key, _ in variant.settings():
        if not is_known(key):
            instead = _SUCCESSORS.get(key)
            yield Weakness(UNKNOWN, key, f"{key} is unknown" + (f"; in its place: {instead}" if instead else ""))
    for entry in variant.entries("sgx.trusted_files"):
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if digest is not None and not (isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest)):
            yield Weakness(BAD_HASH, "sgx.trusted_files", f"{uri_text(entry)} has no valid hash", uri_text(entry))


def _attestation(variant: Variant) -> Weaknesses:
    key = "sgx.remote_attestation"
    kind = variant.get(key)
    if is_open(kind):
        yield Weakness(OPEN_ATTESTATION, key, "the kind stands in the template as an expression")
    elif kind is None or kind == "none" or kind is False:
        yield Weakness(NO_ATTESTATION, key, "there is no remote attestation")
    elif kind != "dcap":
        yield Weakness(OLD_ATTESTATION, key, f"the kind is {kind if isinstance(kind, str) else 'not given'}")


def _broker_client(variant: Variant) -> Weaknesses:
    given = environment(variant)
    trusted = [path for entry in variant.entries("sgx.trusted_files") if (path := path_of(uri_text(entry)))]
    for library in re.split(r"[ :]", given.get("LD_PRELOAD", "")):
        if library and not is_open(library) and not _any_covers(variant, trusted, library):
            yield Weakness(PRELOADED, "loader.env.LD_PRELOAD", f"{library} is not among the trusted files")
    if not any(name.startswith("SECRET_PROVISION_") for name in given):
        return
    authority = given.get("SECRET_PROVISION_CA_CHAIN_PATH")
    key = "loader.env.SECRET_PROVISION_CA_CHAIN_PATH"
    listed = [*trusted, *(path for entry in variant.entries("sgx.allowed_files") if (path := path_of(entry)))]
    if authority is None:
        yield Weakness(UNLISTED_AUTHORITY, key, "no authority vouches for the key broker")
    elif not is_open(authority) and not _any_covers(variant, listed, authority):
        yield Weakness(UNLISTED_AUTHORITY, key, f"{authority} is not among the trusted files")
    encrypted = any(isinstance(m, dict) and m.get("type") == "encrypted" for m in variant.entries("fs.mounts"))
    if encrypted and not ({"SECRET_PROVISION_SET_KEY", "SECRET_PROVISION_SET_PF_KEY"} & set(given)):
        yield Weakness(KEY_IN_ENVIRONMENT, "loader.env", "the key broker's key is set nowhere", "SECRET_PROVISION_")


def _any_covers(variant: Variant, paths: list[str], inside: str) -> bool:
    return any(covers(path, name) for path in paths for name in host_paths(variant, inside))


def _sizes(variant: Variant) -> Weaknesses:
    key = "sgx.enclave_size"
    size = variant.get(key)
    later = variant.get("sgx.edmm_enable")
    if isinstance(size, str) and not is_open(size):
        found = _SIZE.fullmatch(size)
        number = int(found[1], 0 if found[1].startswith("0x") else 10) * _UNITS[found[2]] if found else 0
        if number <= 0 or number & (number - 1):
            yield Weakness(SIZE, key, f"{size} is no power of two")
    threads = (variant.get("sgx.max_threads"), variant.get("sgx.thread_num"))
    if later is not True and not is_open(later) and (size is None or threads == (None, None)):
        missing = key if size is None else "sgx.max_threads"
        yield Weakness(DEFAULT_SIZES, missing, f"{missing} is not set")
    if later is True and variant.get("sgx.preheat_enclave") is True:
        yield Weakness(PREHEATED, "sgx.preheat_enclave", "sgx.preheat_enclave goes with sgx.edmm_enable")
