from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.deploy.images.lint import (
    Finding,
    Rule,
    allowed_rules,
    enclave_rules,
    file_rules,
    findings,
    host_rules,
    lint,
    parse_manifest,
)
from sealserve.errors import InputError

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "images.md"

# A manifest with the weaknesses of the original, in words of our own.
WEAK = """\
loader.entrypoint = "file:{{ gramine.libos }}"
libos.entrypoint = "tensorflow_model_server"
loader.log_level = "{{ level }}"

# The host's arguments.
loader.insecure__use_cmdline_argv = true
loader.env.LD_LIBRARY_PATH = "/lib:{{ libraries }}"
loader.env.LD_PRELOAD = "libsecret_prov_attest.so"
loader.env.SECRET_PROVISION_CONSTRUCTOR = "1"
loader.env.SECRET_PROVISION_SET_KEY = "default"
loader.env.SECRET_PROVISION_CA_CHAIN_PATH = "ssl/ca.crt"
loader.env.SECRET_PROVISION_SERVERS = "broker.example:4433"

fs.mounts = [
  { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },
  {% for directory in directories %}
  { path = "{{ directory }}", uri = "file:{{ directory }}" },
  {% endfor %}
  { path = "/models/resnet/1/saved_model.pb", uri = "file:models/resnet/1/saved_model.pb", type = "encrypted" },
]

sgx.enclave_size = "4G"
sgx.thread_num = 400
sgx.nonpie_binary = true
sgx.remote_attestation = "{{ kind }}"

sgx.trusted_files = [
  "file:{{ gramine.runtimedir() }}/",
  "file:ssl/ca.crt",
  "file:tensorflow_model_server",
]
sgx.allowed_files = [
  "file:/etc/hosts",
  "file:/etc/resolv.conf",
  "file:ssl.cfg",
]
"""

# Which rows of what is wrong with the original a manifest shows, and the findings that say so.
ROWS = {
    "the host chooses the arguments": ("host-arguments", 6),
    "ssl.cfg with the private key is an allowed file": ("allowed-secret", 35),
    "only saved_model.pb is encrypted": ("partly-sealed-model", 19),
    "a sealed file can be replaced by an older one": ("older-files", 19),
    "an unpatched fork of Gramine: entry point": ("unknown-setting", 1),
    "an unpatched fork of Gramine: threads": ("unknown-setting", 23),
    "an unpatched fork of Gramine: non-PIE": ("unknown-setting", 24),
    "the host answers for names": ("allowed-name-resolution", 33),
    "nothing raises the version": ("no-security-version", 22),
}

SOUND = """\
libos.entrypoint = "/usr/bin/server"
loader.argv = ["server", "--port=1"]
fs.mounts = [{ type = "tmpfs", path = "/tmp" }]
sgx.remote_attestation = "dcap"
sgx.enclave_size = "2G"
sgx.max_threads = 64
sgx.isvprodid = 1
sgx.isvsvn = 1
sgx.trusted_files = ["file:/usr/bin/server"]
"""


def _lint(text: str) -> list[Finding]:
    return lint(parse_manifest(text.encode(), name="test.manifest"))


def _names(text: str) -> set[str]:
    return {finding.rule.name for finding in _lint(text)}


@pytest.mark.parametrize("row", ROWS)
def test_the_weaknesses_of_the_original_light_up_in_their_lines(row: str) -> None:
    assert ROWS[row] in {(finding.rule.name, finding.line) for finding in _lint(WEAK)}


def test_the_worst_comes_first() -> None:
    severities = [finding.rule.severity for finding in _lint(WEAK)]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert severities.count("error") == 3


def test_a_sound_manifest_has_no_weakness() -> None:
    assert _lint(SOUND) == []


@pytest.mark.parametrize(
    ("line", "name", "severity"),
    [
        ("loader.insecure__use_host_env = true", "host-environment", "error"),
        ("loader.env.LD_PRELOAD = { passthrough = true }", "passthrough-of-code", "error"),
        ("loader.env.PYTHONPATH = { passthrough = true }", "passthrough-of-code", "error"),
        ("loader.env.HOSTNAME = { passthrough = true }", "passthrough", "warning"),
        ('loader.argv_src_file = "file:arguments"', "unmeasured-source", "error"),
        ('loader.env_src_file = "file:environment"', "unmeasured-source", "error"),
        ('loader.env.DATABASE_PASSWORD = "x"', "secret-in-manifest", "error"),
        ('loader.env.SECRET_PROVISION_SECRET_STRING = "x"', "secret-in-manifest", "error"),
        ('loader.log_level = "debug"', "log-level", "error"),
        ('loader.log_level = "warning"', "log-warnings", "warning"),
        ("loader.insecure__disable_aslr = true", "insecure-setting", "error"),
        ("sgx.insecure__rpc_thread_num = 4", "insecure-setting", "error"),
        ("sgx.insecure__allow_memfaults_without_exinfo = true", "insecure-setting", "error"),
        ("sys.insecure__allow_eventfd = true", "host-eventfd", "warning"),
        ('sys.debug__mock_syscalls = [{ name = "fsync", return = 0 }]', "mocked-system-calls", "warning"),
        ("libos.check_invalid_pointers = false", "unchecked-pointers", "warning"),
        ("sgx.debug = true", "debug-enclave", "error"),
        ("sgx.debug = {{ debug }}", "debug-open", "note"),
        ("sgx.enable_stats = true", "profiled-enclave", "error"),
        ('sgx.profile.enable = "all"', "profiled-enclave", "error"),
        ('sgx.file_check_policy = "allow_all_but_log"', "file-check-policy", "error"),
        ('sgx.allowed_files = ["file:/usr/lib/libssl.so.3"]', "allowed-code", "error"),
        ('sgx.allowed_files = ["file:/usr/bin/server"]', "allowed-code", "error"),
        ('sgx.allowed_files = ["file:server.py"]', "allowed-code", "error"),
        ('sgx.allowed_files = ["file:/certs/server.key"]', "allowed-secret", "error"),
        ('sgx.allowed_files = ["file:/app/settings.yaml"]', "allowed-secret", "error"),
        ('sgx.allowed_files = ["file:models/"]', "allowed-model", "error"),
        ('sgx.allowed_files = ["file:/tmp/"]', "allowed-temporary", "error"),
        ('sgx.allowed_files = ["file:/"]', "allowed-everything", "error"),
        ('sgx.allowed_files = ["file:."]', "allowed-everything", "error"),
        ('sgx.allowed_files = ["file:/etc"]', "allowed-everything", "error"),
        ('sgx.allowed_files = ["file:/etc/hosts"]', "allowed-name-resolution", "warning"),
        ('sgx.allowed_files = ["dev:/dev/gpu"]', "allowed-device", "warning"),
        ('sgx.allowed_files = ["file:/data/out.csv"]', "allowed-file", "warning"),
        ('sgx.allowed_files = ["/data"]', "no-file-uri", "error"),
        ('fs.insecure__keys.default = "00112233445566778899aabbccddeeff"', "key-in-manifest", "error"),
        ('sgx.enclave_size = "3G"', "enclave-size", "error"),
        ('sgx.enclave_size = "huge"', "enclave-size", "error"),
        ("sgx.edmm_enable = true\nsgx.preheat_enclave = true", "preheat-with-edmm", "error"),
        ('sgx.remote_attestation = "none"', "no-remote-attestation", "error"),
        ('sgx.remote_attestation = "epid"', "retired-attestation", "error"),
        ("sgx.remote_attestation = true", "retired-attestation", "error"),
        ("sgx.isvsvn = 0", "no-security-version", "note"),
        ('sgx.trusted_files = ["file:/usr/"]', "broad-trust", "warning"),
        ('sgx.trusted_files = ["file:/lib/x86_64-linux-gnu/"]', "all-libraries-trusted", "note"),
        ('sgx.trusted_files = ["file:/app/server.key"]', "secret-in-image", "error"),
        ('sgx.trusted_files = ["usr/bin/server"]', "no-file-uri", "error"),
        ('sgx.trusted_files = [{ uri = "file:/a", sha256 = "12" }]', "no-hash", "error"),
        ("sys.enable_sigterm_injection = true", "sigterm", "note"),
        ("sgx.no_such_setting = 1", "unknown-setting", "warning"),
        (
            'fs.mounts = [{ type = "untrusted_shm", path = "/dev/shm", uri = "dev:/dev/shm" }]',
            "untrusted-shared-memory",
            "warning",
        ),
        ('fs.mounts = [{ path = "/proc/cpuinfo", uri = "file:/proc/cpuinfo" }]', "host-pseudo-files", "error"),
        (
            'fs.mounts = [{ type = "encrypted", path = "/d", uri = "file:d", key_name = "_sgx_mrsigner" }]',
            "signer-key",
            "warning",
        ),
        ('fs.root = { uri = "file:/proc" }', "host-pseudo-files", "error"),
        ('loader.env.SECRET_PROVISION_SERVERS = "a:1"', "unlisted-authority", "warning"),
        ('loader.env.SECRET_PROVISION_CA_CHAIN_PATH = "/ca.pem"', "unlisted-authority", "warning"),
        ('loader.env.LD_PRELOAD = "/opt/lib.so"', "unlisted-library", "warning"),
    ],
)
def test_each_weakness_is_found_where_it_stands(line: str, name: str, severity: str) -> None:
    keys = {text.partition(" = ")[0] for text in line.splitlines()}
    kept = [text for text in SOUND.splitlines() if text.partition(" = ")[0] not in keys]
    text = "\n".join([*kept, *line.splitlines(), ""])
    found = [finding for finding in _lint(text) if finding.rule.name == name]
    assert [finding.rule.severity for finding in found] == [severity]
    assert found[0].line in range(len(kept) + 1, len(kept) + 1 + len(keys))
    assert found[0].rule.mend
    assert found[0].rule.meaning


@pytest.mark.parametrize("missing", ["sgx.enclave_size", "sgx.max_threads", "sgx.remote_attestation"])
def test_what_is_missing_is_told(missing: str) -> None:
    text = "\n".join(line for line in SOUND.splitlines() if not line.startswith(missing))
    wanted = "no-remote-attestation" if missing == "sgx.remote_attestation" else "default-sizes"
    assert _names(text) == {wanted}


def _tensorflow(arguments: str, mounts: str = "", rest: str = "") -> str:
    return (
        'libos.entrypoint = "/usr/bin/tensorflow_model_server"\n'
        f'loader.argv = ["tensorflow_model_server", {arguments}]\n'
        f"fs.mounts = [{mounts}]\n{rest}"
    )


SEALED = '{ type = "encrypted", path = "/models/m", uri = "file:/models/m" }'
SEALED_TLS = '{ type = "encrypted", path = "/tls/ssl.cfg", uri = "file:/tls/ssl.cfg" }'


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (_tensorflow('"--rest_api_port=8501"'), "rest-in-clear"),
        (_tensorflow('"--port=8500"'), "no-tls"),
        (_tensorflow('"--ssl_config_file=/tls/ssl.cfg"', SEALED), "unsealed-file"),
        (_tensorflow('"--model_base_path=/models/m"', SEALED_TLS), "unsealed-file"),
        (_tensorflow('"--ssl_config_file", "/a.cfg"', "", 'sgx.allowed_files = ["file:/a.cfg"]'), "allowed-secret"),
        (
            _tensorflow(
                '"--ssl_config_file=/c/a"', '{ path = "/c", uri = "file:/host" }', 'sgx.allowed_files = ["file:/host/"]'
            ),
            "allowed-secret",
        ),
        (
            'loader.env.SECRET_PROVISION_CA_CHAIN_PATH = "ca.x"\nsgx.allowed_files = ["file:ca.x"]',
            "allowed-authority",
        ),
        ('loader.argv = ["x", "-m", "sealserve", "replica"]', "no-memory-files"),
        (
            'loader.argv = ["x", "-m", "sealserve"]\nfs.mounts = [{ type = "tmpfs", path = "/tmp", uri = "file:/x" }]',
            "no-memory-files",
        ),
        (
            'loader.argv = ["x", "sealserve", "--broker-ca", "/b.x"]\nsgx.allowed_files = ["file:/b.x"]',
            "allowed-authority",
        ),
        ('loader.env.LD_PRELOAD = "/p.x"\nsgx.allowed_files = ["file:/p.x"]', "allowed-code"),
        ('loader.argv = ["x", "-m", "sealserve", "serve", "--insecure-plaintext"]', "no-tls"),
        (f'loader.env.SECRET_PROVISION_SERVERS = "a:1"\nfs.mounts = [{SEALED}]', "key-in-environment"),
    ],
)
def test_settings_are_seen_together(text: str, name: str) -> None:
    assert name in _names(text)


def test_what_is_sealed_and_named_is_no_weakness() -> None:
    text = _tensorflow('"--ssl_config_file=/tls/ssl.cfg", "--model_base_path=/models/m"', f"{SEALED}, {SEALED_TLS}")
    assert not {"unsealed-file", "no-tls", "rest-in-clear"} & _names(text)


def test_both_branches_of_a_template_are_read() -> None:
    text = (
        "{% if production %}\nsgx.debug = false\nloader.log_level = 'error'\n"
        "{% else %}\nsgx.debug = true\n{% endif %}\n"
        "{% if a %}{% if b %}x = 1{% else %}x = 2{% endif %}{% endif %}\n"
        'sgx.edmm_enable = {{ "true" if e else "false" }}\n'
    )
    assert ("debug-enclave", 5) in {(finding.rule.name, finding.line) for finding in _lint(text)}


@pytest.mark.parametrize(
    "template",
    [
        "{% if a %}sgx.debug = false\n{% elif b %}sgx.debug = true\n{% else %}sgx.debug = false\n{% endif %}",
        "{% if a %}{% if b %}\n{% else %}sgx.debug = true\n{% endif %}{% else %}sgx.debug = false\n{% endif %}",
        "{% if a %}{% for b in c %}{% else %}{% endfor %}sgx.debug = true\n{% else %}sgx.debug = false\n{% endif %}",
        'loader.env.A = "{#"\nsgx.debug = true\nloader.env.B = "#}"',  # strings, for Gramine
    ],
)
def test_no_branch_and_no_comment_of_a_template_hides_anything(template: str) -> None:
    assert "debug-enclave" in _names(template)


@pytest.mark.parametrize("tag", ['{% include "more" %}', "{%- import x as y %}", '{% extends "base" %}'])
def test_a_template_that_takes_in_another_is_refused(tag: str) -> None:
    with pytest.raises(InputError, match="another template"):
        _lint(f"sgx.debug = false\n{tag}\n")


@pytest.mark.parametrize("uri", ["file:/../", "file:/..", "file:..", "file:../../", "file:/x/../", "file:///", "file:"])
def test_no_spelling_of_a_whole_tree_makes_it_a_single_file(uri: str) -> None:
    assert "allowed-everything" in _names(f'sgx.allowed_files = ["{uri}"]')
    assert "broad-trust" in _names(f'sgx.trusted_files = ["{uri}"]')


def test_a_device_that_is_mounted_is_seen_as_well() -> None:
    assert "allowed-device" in _names('fs.mounts = [{ path = "/dev/x", uri = "dev:/dev/x" }]')


def test_files_that_are_protected_in_the_old_way_are_seen_as_encrypted() -> None:
    found = _lint('\nsgx.protected_files = [\n  "file:models/resnet/1/saved_model.pb",\n]\n')
    lines = {finding.rule.name: finding.line for finding in found}
    assert (lines["partly-sealed-model"], lines["older-files"]) == (3, 2)


def test_a_signed_manifest_is_read_as_well() -> None:
    text = SOUND.replace('["file:/usr/bin/server"]', '[{ uri = "file:/usr/bin/server", sha256 = "' + 64 * "a" + '" }]')
    assert _lint(text) == []


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = ", b"[" * 5000, b"a = 2026-99-99", b"= 1", b"x = {{ a }}b"])
def test_what_is_no_manifest_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match="no Gramine manifest"):
        parse_manifest(data, name="x")


_KEYS = st.sampled_from(
    (
        *("loader", "libos", "sgx", "sys", "fs", "env", "argv", "entrypoint", "mounts", "root", "allowed_files"),
        *("trusted_files", "enclave_size", "log_level", "insecure__x", "LD_PRELOAD", "SECRET_PROVISION_SERVERS"),
        *("path", "type", "key_name", "sha256", "value", "passthrough", "remote_attestation", "max_threads"),
        *("debug", "profile", "uri"),
    )
)
_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["file:/", "file:", "dev:x", "encrypted", "{{ x }}", "file:../..", "tensorflow_model_server"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            '"'
            + "".join(f"\\U{ord(character):08x}" if not character.isalnum() else character for character in value)
            + '"'
        )
    return repr(value)


@settings(max_examples=40)
@given(document=st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_no_manifest_makes_lint_fail(document: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in document.items())
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a lone surrogate
    for finding in _lint(text):
        assert 1 <= finding.line <= text.count("\n") + 1


@settings(max_examples=60)
@given(data=st.binary(max_size=200) | st.text("{%}#[]=\"'\\\n ifelsndr.x1", max_size=120).map(str.encode))
def test_no_bytes_make_lint_fail(data: bytes) -> None:
    try:
        manifest = parse_manifest(data, name="x")
    except InputError:
        return
    lint(manifest)


@settings(max_examples=60)
@given(
    at=st.integers(0, len(WEAK)),
    piece=st.sampled_from(["{{", "}}", "{% if x %}", "{% else %}", "{% endif %}", '"', "\n", "[", "]", "#", "{#", "'"]),
)
def test_no_broken_template_makes_lint_fail(at: int, piece: str) -> None:
    try:
        manifest = parse_manifest((WEAK[:at] + piece + WEAK[at:]).encode(), name="x")
    except InputError:
        return
    lint(manifest)


def test_every_rule_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", DOCUMENTATION.read_text(), re.MULTILINE))
    rules = {
        (value.name, value.severity)
        for module in (allowed_rules, enclave_rules, file_rules, findings, host_rules)
        for value in vars(module).values()
        if isinstance(value, Rule)
    }
    assert documented == rules
