"""Configuration files: strict YAML, and errors that name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from sealserve.configuration import RelativePath, Settings, load_yaml, parse_yaml
from sealserve.errors import ConfigurationError, InputError


class Replicas(Settings):
    count: int = Field(ge=1, le=64, description="number of replicas to run")
    engine: Literal["openvino", "tensorflow"] = "openvino"


class Key(Settings):
    name: str = Field(min_length=1)
    file: RelativePath | None = None


class Deployment(Settings):
    replicas: Replicas
    keys: tuple[Key, ...] = Field((), max_length=3)
    labels: dict[str, Replicas] = Field(default_factory=dict)
    verbose: bool = False
    ratio: float = 0.5


def errors(text: str, model: type[BaseModel] = Deployment) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_yaml(text, model, path=Path("deployment.yaml"))
    return caught.value.message.splitlines()


GOOD = "replicas:\n  count: 2\n"


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deployment.yaml"
    path.write_text(GOOD + "keys:\n- name: wrap\n  file: keys/wrap\n- {name: other, file: /absolute}\n")
    deployment = load_yaml(path, Deployment)
    assert deployment.replicas.count == 2
    assert deployment.keys[0].file == tmp_path / "keys" / "wrap"
    assert deployment.keys[1].file == Path("/absolute")


def test_a_path_in_code_stays_as_it_is() -> None:
    assert Key(name="wrap", file=Path("keys/wrap")).file == Path("keys/wrap")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("replicas:\n  count: 0\n", "2: replicas.count: must be at least 1 (number of replicas to run)"),
        ("replicas:\n  count: 99\n", "2: replicas.count: must be at most 64 (number of replicas to run)"),
        ("replicas:\n  count: many\n", "2: replicas.count: must be a whole number (number of replicas to run)"),
        ("replicas:\n  engine: openvino\n", "1: replicas.count: is missing (number of replicas to run)"),
        ("", "1: replicas: is missing"),
        ("replicas: 3\n", "1: replicas: must be a section with names and values"),
        ("- a\n", "1: must be a section with names and values"),
        (GOOD + "  engine: onnx\n", "3: replicas.engine: must be 'openvino' or 'tensorflow'"),
        (GOOD + "  cuont: 1\n", "3: replicas.cuont: is not a known setting; did you mean count?"),
        (GOOD + "xyz: 1\n", "3: xyz: is not a known setting; known here: replicas, keys, labels, verbose, ratio"),
        (GOOD + "keys:\n- name: a\n- nmae: b\n", "5: keys[1].nmae: is not a known setting; did you mean name?"),
        (GOOD + "keys:\n- name: 5\n", "4: keys[0].name: must be text; put it in quotes if it looks like a number"),
        (GOOD + "keys: wrap\n", "3: keys: must be a list"),
        (GOOD + "labels:\n  big:\n    count: 0\n", "5: labels.big.count: must be at least 1"),
        (GOOD + "verbose: maybe\n", "3: verbose: must be true or false"),
        (GOOD + "ratio: half\n", "3: ratio: must be a number"),
    ],
)
def test_an_error_names_line_setting_and_meaning(text: str, line: str) -> None:
    assert any(error.startswith(f"deployment.yaml:{line}") for error in errors(text)), errors(text)


def test_all_errors_are_listed_in_the_order_of_the_file() -> None:
    found = errors("verbos: true\nreplicas:\n  count: 0\n  engine: onnx\nratio: half\n")
    assert [error.split(":")[1] for error in found] == ["1", "3", "4", "5"]


def test_a_duplicate_key_is_an_error() -> None:
    assert errors("replicas:\n  count: 1\n  count: 2\n") == [
        "deployment.yaml:3: replicas.count: is given twice (first in line 2)"
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "1: "),
        ("a: b: c", "1: "),
        ("\ta: 1", "1: found character"),
        ("a: &x 1\nb: *x\n", "2: aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "1: could not determine a constructor"),
        ("? [a, b]\n: 1\n", "1: a setting's name must be plain text"),
        ("a: 1\n---\nb: 2\n", "2: but found another document"),
        ("\x00", "1: "),
        ("[" * 5000, "1: "),
    ],
)
def test_what_is_no_plain_yaml_is_an_error(text: str, why: str) -> None:
    assert errors(text)[0].startswith(f"deployment.yaml:{why}"), errors(text)


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "deployment.yaml"
    path.write_bytes(b"replicas: \xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_yaml(path, Deployment)


def test_a_missing_or_huge_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_yaml(tmp_path / "absent.yaml", Deployment)
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="larger"):
        load_yaml(tmp_path / "huge.yaml", Deployment)


def test_values_are_not_repeated_in_errors() -> None:
    found = errors("replicas:\n  count: hunter2\nkeys:\n- name: [hunter2]\nverbose: hunter2\n")
    assert len(found) == 3
    assert "hunter2" not in "".join(found)


@given(st.text(max_size=200))
def test_any_text_is_read_or_a_configuration_error(text: str) -> None:
    message = "deployment.yaml:"
    try:
        parse_yaml(text, Deployment, path=Path("deployment.yaml"))
    except ConfigurationError as error:
        message = error.message
    assert message.startswith("deployment.yaml:")
