"""Allowed files: those that the host may choose freely."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sealserve.deploy.images.lint.document import Variant, is_open
from sealserve.deploy.images.lint.findings import (
    BAD_URI,
    Rule,
    Weakness,
    Weaknesses,
    arguments,
    covers,
    environment,
    host_paths,
    is_whole_tree,
    path_of,
    program_argument,
    uri_text,
)

ALLOWED_CODE = Rule(
    "allowed-code",
    "error",
    "The host can put other code into the enclave, which then has all of its secrets and its measurement.",
    "List it under sgx.trusted_files.",
)
ALLOWED_SECRET = Rule(
    "allowed-secret",
    "error",
    "The file lies on the host in the clear, unauthenticated. A private key in it lets the host pass for the service; "
    "settings in it are the host's to choose.",
    'Seal it, and mount it encrypted: { type = "encrypted", path = ..., uri = ..., key_name = "default" }. '
    "Certificates of authorities, which are no secret, belong under sgx.trusted_files.",
)
ALLOWED_AUTHORITY = Rule(
    "allowed-authority",
    "error",
    "The host puts in a certificate authority of its own, runs a key broker of its own, and has the enclave use a key, "
    "a model and a certificate of the host's choice.",
    "List it under sgx.trusted_files: it is no secret, and must be measured.",
)
ALLOWED_MODEL = Rule(
    "allowed-model",
    "error",
    "The model lies on the host in the clear, and the host can put another in its place.",
    'Seal the whole directory and mount it encrypted: { type = "encrypted", ... }.',
)
ALLOWED_WRITING = Rule(
    "allowed-temporary",
    "error",
    "What the program writes there, the host reads: temporary files hold plaintext.",
    'Mount it in the memory of the enclave: { type = "tmpfs", path = "/tmp" }.',
)
ALLOWED_EVERYTHING = Rule(
    "allowed-everything",
    "error",
    "The host chooses whole trees of files, programs and settings among them.",
    "Name the single files that the host may choose, if there are any.",
)
ALLOWED_NAMES = Rule(
    "allowed-name-resolution",
    "warning",
    "The host says which address a name has, and how names are looked up. TLS that checks whom it speaks to survives "
    "that; everything else does not.",
    "Take it out and set sys.enable_extra_runtime_domain_names_conf = true, which checks what the host says; list "
    "fixed files under sgx.trusted_files.",
)
ALLOWED_DEVICE = Rule(
    "allowed-device",
    "warning",
    "What is written to a device, and what it answers, is the host's.",
    "Take it out unless what goes through it is encrypted.",
)
ALLOWED = Rule(
    "allowed-file",
    "warning",
    "The host chooses what is in it, and reads what the program writes there.",
    "List it under sgx.trusted_files, mount it encrypted, or make sure that the program checks what it reads.",
)
CHECKED_BY_PROGRAM = Rule(
    "checked-by-the-program",
    "note",
    "The host chooses what is in the directory. sealserve's replica authenticates every block of it under the key that "
    "the broker gives, and the whole against the digest that the broker names.",
    "Nothing.",
)
CHECK_POLICY = Rule(
    "file-check-policy",
    "error",
    "Files that nobody listed are opened too: all of the host's file system counts as allowed.",
    'Take sgx.file_check_policy out, or set it to "strict".',
)

_AUTHORITY = "the authority that vouches for the key broker"
_NAME_FILES = frozenset(
    {"ethers", "gai.conf", "group", "host.conf", "hosts", "hostname", "networks", "nsswitch.conf", "passwd"}
    | {"protocols", "resolv.conf", "services"}
)
_CODE = re.compile(
    r"\.(so(\.[0-9.]+)?|py|pyc|jar|sh|js|rb|pl)$|(^|/)(bin|sbin|lib|lib64|libs|usr|opt|python[0-9.]*)(/|$)"
)
_SECRET = re.compile(
    r"\.(pem|key|crt|cer|p12|pfx|jks|cfg|conf|cnf|ini|json|ya?ml|toml|env|htpasswd)$"
    r"|(^|[/._-])(ssl|tls|certs?|keys?|secrets?|password|token|credentials?|wrap[_-]?key)([/._-]|$)"
)
_MODEL = re.compile(
    r"\.(pb|pbtxt|onnx|pt|pth|h5|tflite|safetensors|bin)$|(^|/)(models?|variables|saved_model)([/._-]|$)"
)
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run", "tmp")  # noqa: S108 - names to look for


def allowed_weaknesses(variant: Variant) -> Weaknesses:
    """Of one variant of a manifest."""
    key = "sgx.allowed_files"
    used = list(_relied_on(variant))
    sealed = program_argument(variant, "sealed") if "sealserve" in arguments(variant) else None
    for entry in variant.entries(key):
        uri = uri_text(entry)
        path = path_of(uri)
        if uri.startswith("dev:"):
            yield Weakness(ALLOWED_DEVICE, key, f"{uri} is allowed", uri)
        elif path is None:
            yield Weakness(BAD_URI, key, f"{uri or 'an entry'} is no URI of a file", uri)
        elif sealed and path.rstrip("/") == sealed.rstrip("/"):
            yield Weakness(CHECKED_BY_PROGRAM, key, f"{uri}, the sealed model, is allowed", uri)
        else:
            relied = next(
                (why for name, why in used if any(covers(path, at) for at in host_paths(variant, name))), None
            )
            because = f", and is or holds {relied}" if relied else ""
            yield Weakness(_kind(path, relied), key, f"{uri} is allowed{because}", uri)
    policy = variant.get("sgx.file_check_policy")
    if policy is not None and policy != "strict" and not is_open(policy):
        yield Weakness(CHECK_POLICY, "sgx.file_check_policy", f"the policy is {policy}")


def _any_in(directory: str, paths: Iterable[str]) -> bool:
    return any(covers(directory, path) for path in paths)


def _kind(path: str, relied: str | None) -> Rule:
    name = path.rstrip("/").rpartition("/")[2]
    if path.rstrip("/") in _TEMPORARY:
        return ALLOWED_WRITING
    if is_whole_tree(path):
        return ALLOWED_EVERYTHING
    if relied == "code":
        return ALLOWED_CODE
    if relied == _AUTHORITY:
        return ALLOWED_AUTHORITY
    if relied is not None:
        return ALLOWED_SECRET
    if name in _NAME_FILES:
        return ALLOWED_NAMES
    lower = path.lower()
    if _CODE.search(lower):
        return ALLOWED_CODE
    if _MODEL.search(lower):
        return ALLOWED_MODEL
    return ALLOWED_SECRET if _SECRET.search(lower) else ALLOWED


def _relied_on(variant: Variant) -> Iterator[tuple[str, str]]:
    """Paths that the manifest itself says are relied on, and what for."""
    entrypoint = variant.get("libos.entrypoint")
    if isinstance(entrypoint, str):
        yield entrypoint.removeprefix("file:"), "code"
    for name, value in environment(variant).items():
        if name == "LD_PRELOAD":
            yield from ((library, "code") for library in re.split(r"[ :]", value) if library)
        elif name in {"SECRET_PROVISION_CA_CHAIN_PATH", "SSL_CERT_FILE"}:
            yield value, _AUTHORITY
    for option in ("ssl_config_file", "broker-ca", "batching_parameters_file", "model_config_file"):
        if given := program_argument(variant, option):
            yield given, _AUTHORITY if option == "broker-ca" else f"the file of --{option}"
