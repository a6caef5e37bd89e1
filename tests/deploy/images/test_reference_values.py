from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from enclave_signer import sign
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.configuration import load_yaml
from sealserve.deploy.images.reference_values import DebugEnclaveError, add_reference, lockout_reasons
from sealserve.deploy.images.sigstruct import Sigstruct, parse_sigstruct
from sealserve.errors import ConfigurationError, InputError
from sealserve.evidence.policy import AppraisalPolicy, PolicyDocument

A, B = "a" * 64, "b" * 64

COMMENTED = f"""\
# Who gets the key of the classifier.
tee: sgx          # the real thing
collateral: {{service: intel, cache: collateral}}

enclaves:
    # the build of May
    - mrenclave: {A}   # remove in July
    - mrsigner: {B}
      isv_prod_id: 1
      minimum_isv_svn: 2

# Machines in our own racks.
machines:
  - "00112233445566778899aabbccddeeff"
"""

SIMULATED = f"""\
tee: simulated
insecure_accept_simulated_platform: true
trust_root: root.pem
collateral: c.json
enclaves:
  - mrenclave: {A}
"""


def _image(**values: Any) -> Sigstruct:
    return parse_sigstruct(sign(**values))


def _add(path: Path, image: Sigstruct, **options: Any) -> str:
    return add_reference(path, image, **{"accept": "build", "source": "replica.sig", **options})


def test_comments_and_everything_else_stay(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(COMMENTED)
    image = _image()
    assert "beside what it accepted before (2 entries)" in _add(path, image)
    added = f'    # replica.sig\n    - mrenclave: "{image.mrenclave.hex()}"\n'
    assert path.read_text() == COMMENTED.replace("minimum_isv_svn: 2\n", f"minimum_isv_svn: 2\n{added}")


def test_a_policy_that_is_not_there_is_made_and_accepts_the_image(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    image = _image(isv_prod_id=7, isv_svn=3)
    assert "is new" in _add(path, image, accept="signer")
    policy = AppraisalPolicy.load(path)
    assert policy.platform.tee == "sgx"
    (entry,) = load_yaml(path, PolicyDocument).enclaves
    assert (entry.mrsigner, entry.isv_prod_id, entry.minimum_isv_svn) == (image.mrsigner, 7, 3)
    assert lockout_reasons(path, isv_prod_id=7, isv_svn=3, mrsigner=image.mrsigner) == []


@pytest.mark.parametrize("policy", [None, COMMENTED])
def test_a_file_name_adds_nothing_to_a_policy(tmp_path: Path, policy: str | None) -> None:
    path = tmp_path / "policy.yaml"
    if policy is not None:
        path.write_text(policy)
    before = 0 if policy is None else len(load_yaml(path, PolicyDocument).enclaves)
    add_reference(path, _image(), accept="build", source=f'replica\n  - mrenclave: "{"c" * 64}"\n#.sig')
    assert len(load_yaml(path, PolicyDocument).enclaves) == before + 1


def test_a_link_and_the_permissions_of_a_policy_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "policy.yaml", tmp_path / "link.yaml"
    path.write_text(COMMENTED)
    path.chmod(0o640)
    link.symlink_to(path)
    _add(link, _image())
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert len(load_yaml(path, PolicyDocument).enclaves) == 3


def test_an_image_is_added_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    _add(path, _image())
    before = path.read_text()
    assert "accepts it already, by MRENCLAVE" in _add(path, _image())
    assert path.read_text() == before
    _add(path, _image(), accept="signer")
    assert len(load_yaml(path, PolicyDocument).enclaves) == 2


@pytest.mark.parametrize("image", [{"debug": True}, {"insist_on_debug_bit": False}])
def test_a_debug_enclave_is_never_accepted(tmp_path: Path, image: dict[str, bool]) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(DebugEnclaveError):
        _add(path, _image(**image))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        f"tee: sgx\ncollateral: {{service: intel}}\nenclaves: [{{mrenclave: {A}}}]\n",
        f"{{tee: sgx, collateral: {{service: intel}}, enclaves: [{{mrenclave: {A}}}]}}",
    ],
)
def test_a_policy_that_cannot_be_added_to_stays_and_what_to_add_is_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="cannot be added to") as caught:
        _add(path, _image())
    assert _image().mrenclave.hex() in (caught.value.hint or "")
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tee: sgx\n", "collateral"),
        ("tee: [", "policy.yaml:1"),
        (
            SIMULATED,
            "tee: is simulated",
        ),
    ],
)
def test_what_is_no_policy_for_enclaves_stays(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        _add(path, _image())
    assert path.read_text() == text


@settings(max_examples=25)
@given(
    indent=st.integers(0, 6),
    before=st.lists(st.sampled_from(["", "# a comment", "machines: []", "models: []"]), max_size=3, unique=True),
    after=st.lists(st.sampled_from(["", "# another", "reject_advisories: []", "   # odd"]), max_size=3, unique=True),
    inside=st.sampled_from(["", "\n", "\n# in between\n"]),
    last=st.sampled_from(["", "\n", "\n\n"]),
)
def test_wherever_the_entries_stand_one_more_is_all_that_changes(
    *,
    indent: int,
    before: list[str],
    after: list[str],
    inside: str,
    last: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "some-policy.yaml"
    pad = " " * indent
    entries = f"{pad}- mrenclave: {A}{inside or chr(10)}{pad}- mrenclave: {B}"
    text = "\n".join(["tee: sgx", "collateral: {service: intel}", *before, "enclaves:", entries, *after]) + last
    path.write_text(text)
    old = yaml.safe_load(text)
    _add(path, _image())
    new = yaml.safe_load(path.read_text())
    assert new.pop("enclaves") == [*old.pop("enclaves"), {"mrenclave": _image().mrenclave.hex()}]
    assert new == old
    assert [line for line in text.splitlines() if line not in path.read_text().splitlines()] == []


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{"mrenclave": A}], "every build has its own"),
        ([{"mrsigner": A, "isv_prod_id": 2, "minimum_isv_svn": 1}], "accepts product 2, and image.isv_prod_id is 1"),
        (
            [{"mrsigner": A, "isv_prod_id": 1, "minimum_isv_svn": 4}],
            "accepts security version 4 or later, and image.isv_svn is 3",
        ),
        ([{"mrsigner": B, "isv_prod_id": 1, "minimum_isv_svn": 1}], "another signer"),
    ],
)
def test_a_policy_that_would_lock_every_replica_out_is_told_before_building(
    tmp_path: Path, entries: list[dict[str, Any]], reason: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({"tee": "sgx", "collateral": "c.json", "enclaves": entries}))
    (told,) = lockout_reasons(path, isv_prod_id=1, isv_svn=3, mrsigner=bytes.fromhex(A))
    assert reason in told
    fitting = {"mrsigner": A, "isv_prod_id": 1, "minimum_isv_svn": 3}
    path.write_text(yaml.safe_dump({"tee": "sgx", "collateral": "c.json", "enclaves": [*entries, fitting]}))
    assert lockout_reasons(path, isv_prod_id=1, isv_svn=3, mrsigner=bytes.fromhex(A)) == []


def test_a_policy_for_other_platforms_would_lock_every_replica_out(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({"tee": "tdx", "collateral": "c.json", "trust_domains": [{"mrtd": "c" * 96}]}))
    assert lockout_reasons(path, isv_prod_id=1, isv_svn=1) == ["it is for tee: tdx, and the image is for sgx"]
