"""What those who know ``kubectl`` type, where ``sealserve k8s`` has another word for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sealserve.errors import ConfigurationError

_FILE_OR_FOLLOW = "Here -f names the deployment's file; to go on reading, use --follow."
_HINTS = {
    ("logs", "-f"): _FILE_OR_FOLLOW,
    (None, "-n"): "The namespace is in deployment.yaml: kubernetes.namespace, or the deployment's name.",
}
_SPELLINGS = {"--namespace": "-n", "--file": "-f"}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s?)?")


class HabitsGroup(click.Group):
    """A group that says of some options, which its commands do not have, what there is in their place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.NoSuchOption, click.BadOptionUsage) as error:
            name = _SPELLINGS.get(error.option_name, error.option_name)
            hint = _HINTS.get((ctx.invoked_subcommand, name)) or _HINTS.get((None, name))
            if hint is None:
                raise
            raise click.UsageError(f"{error.format_message()} {hint}", error.ctx or ctx) from None


def duration(text: str) -> int:
    """Seconds, also as a time such as ``90s``, ``5m`` and ``1h30m``. :raises click.BadParameter: it is none."""
    match = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if total < 1 or total >= 1 << 31:
        raise click.BadParameter(f"{text!r} is no time: seconds, or such as 90s, 5m, 2h, 1h30m.")
    return total


def pod_name(text: str) -> str:
    """A pod's name, also as ``pod/NAME``. :raises click.BadParameter: it is something else's."""
    kind, slash, name = text.rpartition("/")
    if slash and kind not in {"pod", "pods", "po"}:
        raise click.BadParameter(f"{text!r} is no pod: give its name alone, or pod/NAME.")
    return name


def require_file_not_follow(file: Path) -> None:
    """:raises ConfigurationError: ``-f`` was meant as ``kubectl logs`` has it: what follows is no file's name."""
    if not file.exists() and file.suffix.lower() not in {".yaml", ".yml", ".json"}:
        raise ConfigurationError(f"there is no file {file}", hint=_FILE_OR_FOLLOW)
