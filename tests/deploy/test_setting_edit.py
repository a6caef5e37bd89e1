from __future__ import annotations

from pathlib import Path

import pytest

from sealserve.deploy import load_deployment
from sealserve.deploy.setting_edit import as_yaml, write_setting
from sealserve.errors import ConfigurationError, InputError

OLD = f"old/name@sha256:{64 * '0'}"
NEW = f"registry.example/team/a:1@sha256:{64 * '1'}"
TEXT = f"""\
name: mine   # ours
model: {{name: m, path: model}}

kubernetes:
  image: '{OLD}'  # the replicas
  edge: {{kind: node-port}}
  sealed_model: {{image: {OLD}}}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "deployment.yaml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def test_one_setting_changes_and_no_other_byte(file: Path) -> None:
    assert write_setting(file, "kubernetes.image", NEW)
    assert file.read_text() == TEXT.replace(f"'{OLD}'", NEW)
    assert write_setting(file, "kubernetes.sealed_model.image", NEW)
    assert file.read_text() == TEXT.replace(f"'{OLD}'", NEW).replace(OLD, NEW)
    section = load_deployment(file).kubernetes
    assert section is not None
    assert section.image == section.sealed_model.image == NEW
    assert not write_setting(file, "kubernetes.image", NEW)
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_setting_that_is_not_there_is_told_and_nothing_written(file: Path) -> None:
    with pytest.raises(InputError, match=r"no setting image\.base") as refused:
        write_setting(file, "image.base", NEW)
    assert f"image: {{base: '{NEW}'}}" in (refused.value.hint or "")
    with pytest.raises(InputError):
        write_setting(file, "kubernetes.edge", NEW)
    assert file.read_text() == TEXT


def test_text_over_several_lines_is_not_replaced(file: Path) -> None:
    text = TEXT.replace(f"'{OLD}'  # the replicas", f">-\n    {OLD}")
    file.write_text(text)
    with pytest.raises(InputError, match="cannot be replaced"):
        write_setting(file, "kubernetes.image", NEW)
    assert file.read_text() == text


def test_a_file_that_is_no_deployment_is_left_alone(file: Path) -> None:
    file.write_text("name: mine\nkubernetes:\n  image: x\n")
    with pytest.raises(ConfigurationError):
        write_setting(file, "kubernetes.image", NEW)
    assert "image: x" in file.read_text()


def test_a_line_for_people_is_yaml() -> None:
    import yaml

    assert yaml.safe_load(as_yaml("kubernetes.sealed_model.image", NEW)) == {
        "kubernetes": {"sealed_model": {"image": NEW}}
    }
