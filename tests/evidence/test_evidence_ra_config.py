"""Importing the original's ``ra_config.json``: told in full, never an open door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.configuration import load_yaml
from sealserve.errors import ConfigurationError
from sealserve.evidence.policy import AppraisalPolicy, CollateralSettings, PolicyDocument
from sealserve.evidence.policy.ra_config import ImportedPolicy, import_ra_config

MRENCLAVE = "7de5ab70f2cd92cb7c0f9274befe3493470cec5a2bc7b2df2e224a614ec7fd90"
MRSIGNER = "b11a7be39a7ba685e1807f1d295d65bbd8ac5436da615f686312f34419786ae8"
ENTRY = {"mr_enclave": MRENCLAVE, "mr_signer": MRSIGNER, "isv_prod_id": "0", "isv_svn": "0"}


def config(*, mrs: Any = None, **switches: str) -> dict[str, Any]:
    names = ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn")
    return {**{f"verify_{name}": switches.get(name, "on") for name in names}, "mrs": [ENTRY] if mrs is None else mrs}


def imported(found: Any) -> ImportedPolicy:
    text = found if isinstance(found, str | bytes) else json.dumps(found)
    return import_ra_config(text, collateral=CollateralSettings(service="intel"), name="ra_config.json")


def refusal(found: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        imported(found)
    return caught.value.message


def test_the_originals_own_file_becomes_a_policy_with_every_check(tmp_path: Path) -> None:
    result = imported(config())
    assert result.warnings == ()
    (enclave,) = result.document.enclaves
    assert enclave.mrenclave == bytes.fromhex(MRENCLAVE)
    assert enclave.mrsigner == bytes.fromhex(MRSIGNER)
    assert (enclave.isv_prod_id, enclave.minimum_isv_svn) == (0, 0)
    assert any("becomes a minimum" in remark for remark in result.remarks)
    assert any("debug mode are never accepted" in remark for remark in result.remarks)
    path = tmp_path / "policy.yaml"
    result.document.save(path)
    assert load_yaml(path, PolicyDocument) == result.document
    assert AppraisalPolicy.load(path)


def test_the_list_may_have_its_later_name_and_plain_numbers() -> None:
    found = config(mrs=[])
    del found["mrs"]
    found["sgx_mrs"] = [ENTRY | {"isv_prod_id": 3, "isv_svn": 7, "config_svn": 0, "debuggable": False}]
    found |= {"verify_config_svn": "off", "verify_enclave_debuggable": "on"}
    result = imported(found)
    assert result.document.enclaves[0].isv_prod_id == 3
    assert result.document.enclaves[0].minimum_isv_svn == 7


def test_a_number_in_quotes_is_what_it_says_and_that_is_told() -> None:
    # The original's parser starts at the quotation mark, and reads 0.
    result = imported(config(mrs=[ENTRY | {"isv_svn": "5"}]))
    assert result.document.enclaves[0].minimum_isv_svn == 5
    assert any('isv_svn is the text "5"; the original reads 0' in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("off", "warning"),
    [
        ("mr_enclave", "the signing key decides what runs"),
        ("mr_signer", "its measurement alone counts"),
        ("isv_prod_id", "the policy demands what stands in the file: product 0"),
        ("isv_svn", "every security version is accepted"),
    ],
)
def test_each_check_that_is_off_is_warned_of(off: str, warning: str) -> None:
    warnings = imported(config(**{off: "off"})).warnings
    assert f"verify_{off} is off" in " ".join(warnings)
    assert warning in " ".join(warnings)


def test_without_the_signer_product_and_version_are_not_taken_over() -> None:
    result = imported(config(mr_signer="off"))
    assert result.document.enclaves[0].mrsigner is None
    assert any("are not taken over" in warning for warning in result.warnings)


def test_a_version_that_is_not_checked_becomes_zero_and_a_product_stays() -> None:
    result = imported(config(isv_prod_id="off", isv_svn="off", mrs=[ENTRY | {"isv_prod_id": 4, "isv_svn": 9}]))
    assert result.document.enclaves[0].isv_prod_id == 4
    assert result.document.enclaves[0].minimum_isv_svn == 0


def test_an_empty_string_counts_as_on_as_in_the_original() -> None:
    result = imported(config(mr_enclave=""))
    assert result.document.enclaves[0].mrenclave is not None
    assert any("empty string" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    "found",
    [
        config(mr_enclave="off", mr_signer="off"),
        config(mr_enclave="off", mr_signer="off", isv_prod_id="off", isv_svn="off"),
    ],
)
def test_a_file_that_pins_nothing_is_refused(found: dict[str, Any]) -> None:
    assert "any enclave would be accepted" in refusal(found)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ("", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"mrs": [], "mrs": []}', "has a setting twice"),
        ({}, "verify_mr_enclave is missing"),
        (config(mr_enclave="ON"), "verify_mr_enclave must be on or off"),
        (config() | {"verify_mr_signer": True}, "verify_mr_signer must be on or off"),
        (config() | {"verify_more": "on"}, "verify_more is not a known setting"),
        (config() | {"verify_config_svn": "on"}, "no policy can express it"),
        (config() | {"sgx_mrs": []}, "one list of measurements"),
        (config(mrs=[]), "at least one object"),
        (config(mrs=["x"]), "at least one object"),
        (config(mrs={}), "at least one object"),
        (config(mrs=[ENTRY | {"mr_enclave": ""}]), "entry 1: mr_enclave is empty, and verify_mr_enclave is on"),
        (config(mrs=[ENTRY, {}]), "entry 2: mr_enclave is missing"),
        (config(mrs=[ENTRY | {"mr_signer": "abcd"}]), "entry 1: mrsigner must be 32 bytes"),
        (config(mrs=[ENTRY | {"mr_enclave": "z" * 64}]), "must be 32 bytes in hexadecimal"),
        (config(mrs=[ENTRY | {"isv_svn": "1x"}]), "isv_svn must be a number"),
        (config(mrs=[ENTRY | {"isv_svn": True}]), "isv_svn must be a number"),
        (config(mrs=[ENTRY | {"isv_prod_id": 70000}]), "isv_prod_id"),
        (config(mrs=[ENTRY | {"debuggable": True}]), "debug mode is never accepted"),
        (config(mrs=[ENTRY | {"mr_enclav": ""}]), "mr_enclav is not a known setting"),
    ],
)
def test_a_file_of_another_form_is_refused(found: Any, why: str) -> None:
    message = refusal(found)
    assert message.startswith("ra_config.json: ")
    assert why in message


_SWITCH = st.sampled_from(["on", "off", "", "On", None])
_VALUE = st.sampled_from([MRENCLAVE, MRSIGNER, "", "0", 0, 1, None, "ab"])


@given(
    st.fixed_dictionaries(
        {f"verify_{name}": _SWITCH for name in ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn")}
        | {"mrs": st.lists(st.dictionaries(st.sampled_from(list(ENTRY)), _VALUE), max_size=3)}
    )
)
def test_whatever_is_imported_pins_what_was_on(found: dict[str, Any]) -> None:
    try:
        document = imported(found).document
    except ConfigurationError:
        return
    for enclave in document.enclaves:
        assert (enclave.mrenclave is not None) == (found["verify_mr_enclave"] in {"on", ""})
        assert (enclave.mrsigner is not None) == (found["verify_mr_signer"] in {"on", ""})
        assert enclave.mrenclave or enclave.mrsigner
