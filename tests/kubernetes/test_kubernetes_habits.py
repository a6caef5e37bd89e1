"""What those who know ``kubectl`` type: it is understood, or there is a hint."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sealserve.cli.kubernetes import k8s
from sealserve.cli.kubernetes_habits import duration
from sealserve.errors import ConfigurationError


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["logs", "-f"], "to go on reading, use --follow"),
        (["logs", "-n", "serving"], "kubernetes.namespace"),
        (["status", "--namespace", "serving"], "kubernetes.namespace"),
        (["delete", "-n", "serving"], "kubernetes.namespace"),
    ],
)
def test_an_option_of_kubectls_has_a_hint(words: list[str], hint: str) -> None:
    error = CliRunner().invoke(k8s, words, standalone_mode=False).exception
    assert isinstance(error, click.UsageError)
    assert error.format_message().count(hint) == 1


@pytest.mark.parametrize("words", [["-f", "photos-replica-1"], ["-f", "--tail", "5"], ["-f", "pod/photos-replica-1"]])
def test_following_by_its_short_name_is_not_taken_for_a_file(words: list[str]) -> None:
    # "5" is then the pod
    error = CliRunner().invoke(k8s, ["logs", *words], standalone_mode=False).exception
    assert isinstance(error, ConfigurationError)
    assert "--follow" in str(error.hint)


def test_a_deployment_that_is_not_there_is_no_habit(tmp_path: Path) -> None:
    result = CliRunner().invoke(k8s, ["logs", "-f", str(tmp_path / "other.yaml")], standalone_mode=False)
    assert isinstance(result.exception, Exception)
    assert "--follow" not in str(getattr(result.exception, "hint", ""))
    assert "--follow" not in str(CliRunner().invoke(k8s, ["status", "-f"], standalone_mode=False).exception)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("90s", 90), ("5m", 300), ("5min", 300), ("2h", 7200), ("1h30m", 5400)]
)
def test_times_may_have_units(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "m", "-5", "5d", "5m1h", "1.5h", "9" * 20])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        duration(text)


@pytest.mark.parametrize(
    ("command", "option"), [("status", "-w, --watch"), ("logs", "-p, --previous"), ("apply", "--wait / --no-wait")]
)
def test_short_names_are_those_of_kubectl(command: str, option: str) -> None:
    assert option in CliRunner().invoke(k8s, [command, "--help"]).output
