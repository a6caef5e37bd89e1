"""The page that newcomers follow: every command on it is one that there is, with options that it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sealserve.cli.main import cli

PAGES = Path(__file__).parents[2] / "docs"
QUICKSTART = PAGES / "kubernetes-quickstart.md"
_SUDO = 'sudo "$(command -v sealserve)"'


def commands() -> Iterator[str]:
    for page in (QUICKSTART, PAGES / "kubernetes-machine.md"):
        for number, text in enumerate(page.read_text().replace(_SUDO, "sealserve").split("```")):
            if number % 2:  # between fences
                yield from (line.partition(" #")[0].strip() for line in re.findall("^sealserve .*", text, re.MULTILINE))
            else:
                yield from (" ".join(found.split()) for found in re.findall("`(sealserve [^`]+)`", text))


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_of_the_page_is_there(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command | None = cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None and "k8s" in line:
            pytest.skip(f"there is no `k8s {name}` yet")
        command = found
    assert command is not None, line
    command.make_context(command.name, words)


def test_the_page_has_all_that_the_story_needs() -> None:
    said = " ".join(commands())
    for command in ("init --kubernetes", "prepare", "image build", "image save", "image push", "image model", "verify"):
        assert f"sealserve {command}" in said
    for command in ("k8s apply", "k8s delete", "predict", "broker run"):
        assert f"sealserve {command}" in said


def test_the_page_can_be_read_in_a_terminal() -> None:
    assert max(map(len, QUICKSTART.read_text().splitlines())) <= 100
