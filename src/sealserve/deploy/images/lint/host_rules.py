"""What the host may say to the enclave: arguments, environment, logs, and settings that are insecure by name."""

from __future__ import annotations

from sealserve.deploy.images.lint.document import Variant, is_open
from sealserve.deploy.images.lint.findings import (
    Rule,
    Weakness,
    Weaknesses,
    arguments,
    covers,
    environment,
    path_of,
    program_argument,
    runs,
    uri_text,
)

HOST_ARGUMENTS = Rule(
    "host-arguments",
    "error",
    "The host chooses the program's arguments, so that MRENCLAVE says nothing about which model is served, from which "
    "path, with which TLS file, on which port, or whether with TLS at all.",
    'Fix them: loader.argv = ["program", "--option=value"], and take loader.insecure__use_cmdline_argv out.',
)
HOST_ENVIRONMENT = Rule(
    "host-environment",
    "error",
    "The host sets every environment variable: LD_PRELOAD alone loads code of its choice, and libraries write "
    "plaintext where variables tell them to.",
    'Take it out, and set what is needed one by one: loader.env.NAME = "value".',
)
PASSTHROUGH_CODE = Rule(
    "passthrough-of-code",
    "error",
    "The host chooses the value of a variable that decides which code runs, or whom the enclave trusts.",
    'Give it a fixed value: loader.env.NAME = "value".',
)
PASSTHROUGH = Rule(
    "passthrough",
    "warning",
    "The host chooses the value of this variable, and it is not measured.",
    'Give it a fixed value: loader.env.NAME = "value"; or make sure that the program does not trust it.',
)
UNMEASURED_SOURCE = Rule(
    "unmeasured-source",
    "error",
    "Arguments or environment come from a file that is not trusted, so that the host chooses them.",
    "List the file under sgx.trusted_files, or write its content into loader.argv and loader.env.",
)
SECRET_IN_MANIFEST = Rule(
    "secret-in-manifest",
    "error",
    "A manifest is no secret: it lies in the image in the clear, and the host reads it.",
    "Have the key broker give the secret after attestation (SECRET_PROVISION_*), and take it out here. It has been "
    "seen: make a new one.",
)
LOG_LEVEL = Rule(
    "log-level",
    "error",
    "Gramine writes what the program does, with data of its system calls, into a log that the host reads.",
    'Set loader.log_level = "error".',
)
LOG_WARNINGS = Rule(
    "log-warnings",
    "warning",
    "Gramine's own advice: levels above error may leak sensitive data to the host.",
    'Set loader.log_level = "error".',
)
LOG_OPEN = Rule(
    "log-level-open",
    "note",
    "The level is decided when the template is rendered; debug and trace leak data of system calls to the host.",
    'Fix loader.log_level = "error" for production.',
)
INSECURE = Rule(
    "insecure-setting",
    "error",
    "Gramine marks the setting as insecure: it gives up a protection against the host.",
    "Take it out. It is for debugging and for processors that are no longer needed.",
)
EVENTFD = Rule(
    "host-eventfd",
    "warning",
    "The host keeps the values of eventfds, and can wake the program up when nothing happened, or never.",
    "Take it out: Gramine 1.9 has eventfds inside the enclave, within one process.",
)
MOCKED = Rule(
    "mocked-system-calls",
    "warning",
    "The program is told that system calls succeeded that did nothing. Locks, syncing and permissions may be among "
    "them.",
    "Take sys.debug__mock_syscalls out, or make sure that nothing relies on what these calls do.",
)
POINTERS = Rule(
    "unchecked-pointers",
    "warning",
    "Wrong addresses in system calls end in the middle of Gramine instead of in an error.",
    "Take libos.check_invalid_pointers = false out.",
)
REST_IN_CLEAR = Rule(
    "rest-in-clear",
    "error",
    "The REST port of tensorflow_model_server has no TLS: the host reads inputs and answers, and changes them.",
    "Set --rest_api_port=0; serve REST by a server that has TLS, such as sealserve's.",
)
NO_TLS = Rule(
    "no-tls",
    "error",
    "Requests and answers cross the host in the clear.",
    "Give tensorflow_model_server an --ssl_config_file on an encrypted mount; sealserve, no --insecure option.",
)
SIGTERM = Rule(
    "sigterm",
    "note",
    "The host can send one SIGTERM at any moment. That is harmless if all it does is end the program in order.",
    "Nothing, if the program's handler stops it; otherwise take sys.enable_sigterm_injection out.",
)

_CODE_VARIABLES = ("LD_", "GLIBC_", "PYTHON", "OPENSSL_", "SSL_", "SECRET_PROVISION_", "RA_TLS_", "GRPC_DEFAULT_SSL")
_CODE_NAMES = frozenset(
    {"BASH_ENV", "CLASSPATH", "ENV", "IFS", "JAVA_TOOL_OPTIONS", "NODE_OPTIONS", "PATH", "PERL5LIB"}
)
_SECRET_WORDS = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "PRIVATE_KEY", "API_KEY", "WRAP_KEY", "CREDENTIAL")
_PUBLIC_SECRETS = ("SECRET_PROVISION_", "RA_TLS_")
_VERBOSE = frozenset({"debug", "trace", "all"})
_OWN_RULES = frozenset(
    {"insecure__use_cmdline_argv", "insecure__use_host_env", "insecure__allow_eventfd", "insecure__keys"}
)


def host_weaknesses(variant: Variant) -> Weaknesses:
    """Of one variant of a manifest."""
    if variant.get("loader.insecure__use_cmdline_argv"):
        key = "loader.insecure__use_cmdline_argv"
        yield Weakness(HOST_ARGUMENTS, key, "the arguments are taken from the host's command line")
    if variant.get("loader.insecure__use_host_env"):
        yield Weakness(HOST_ENVIRONMENT, "loader.insecure__use_host_env", "the environment is taken from the host")
    yield from _sources(variant)
    yield from _variables(variant)
    yield from _log(variant)
    yield from _named_insecure(variant)
    yield from _served_in_clear(variant)
    if variant.get("sys.debug__mock_syscalls"):
        yield Weakness(MOCKED, "sys.debug__mock_syscalls", "system calls are mocked")
    if variant.get("libos.check_invalid_pointers") is False:
        yield Weakness(POINTERS, "libos.check_invalid_pointers", "pointers of system calls are not checked")
    if variant.get("sys.enable_sigterm_injection"):
        yield Weakness(SIGTERM, "sys.enable_sigterm_injection", "the host may send SIGTERM")


def _sources(variant: Variant) -> Weaknesses:
    trusted = [path for entry in variant.entries("sgx.trusted_files") if (path := path_of(uri_text(entry)))]
    for key in ("loader.argv_src_file", "loader.env_src_file"):
        uri = variant.get(key)
        path = path_of(uri)
        if path is not None and not is_open(uri) and not any(covers(known, path) for known in trusted):
            yield Weakness(UNMEASURED_SOURCE, key, f"{uri} is not among the trusted files")


def _variables(variant: Variant) -> Weaknesses:
    for name, value in variant.table("loader.env").items():
        key = f"loader.env.{name}"
        if isinstance(value, dict) and value.get("passthrough"):
            upper = name.upper()
            code = upper.startswith(_CODE_VARIABLES) or upper in _CODE_NAMES
            yield Weakness(PASSTHROUGH_CODE if code else PASSTHROUGH, key, f"{name} is passed on from the host")
    for name, fixed in environment(variant).items():
        upper = name.upper()
        public = upper.startswith(_PUBLIC_SECRETS) and upper != "SECRET_PROVISION_SECRET_STRING"
        if fixed and not public and any(word in upper for word in _SECRET_WORDS):
            yield Weakness(SECRET_IN_MANIFEST, f"loader.env.{name}", f"{name} has its value here")


def _log(variant: Variant) -> Weaknesses:
    key = "loader.log_level"
    level = variant.get(key)
    if is_open(level):
        yield Weakness(LOG_OPEN, key, "the level stands in the template as an expression")
    elif isinstance(level, str) and level in _VERBOSE:
        yield Weakness(LOG_LEVEL, key, f"the level is {level}")
    elif level == "warning":
        yield Weakness(LOG_WARNINGS, key, "the level is warning")


def _named_insecure(variant: Variant) -> Weaknesses:
    if variant.get("sys.insecure__allow_eventfd"):
        yield Weakness(EVENTFD, "sys.insecure__allow_eventfd", "eventfds are the host's")
    for key, value in variant.settings():
        name = next((part for part in key.split(".") if part.startswith("insecure__")), None)
        if name is not None and value and name not in _OWN_RULES:
            yield Weakness(INSECURE, key, f"{name} is set")


def _served_in_clear(variant: Variant) -> Weaknesses:
    given = arguments(variant)
    if runs(variant, "tensorflow_model_server") and given:
        if (port := program_argument(variant, "rest_api_port")) not in {None, "0"}:
            yield Weakness(REST_IN_CLEAR, "loader.argv", f"REST without TLS on port {port}", "rest_api_port")
        if not program_argument(variant, "ssl_config_file"):
            yield Weakness(NO_TLS, "loader.argv", "tensorflow_model_server without --ssl_config_file")
    for argument in given:
        if argument.startswith(("--insecure", "--insecure_")) and "sealserve" in given:
            yield Weakness(NO_TLS, "loader.argv", f"{argument} is given", argument)
