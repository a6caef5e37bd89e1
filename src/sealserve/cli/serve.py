"""``sealserve serve``: what `tensorflow_model_server` does, with its own flags."""

from __future__ import annotations

from typing import Any

import click

from sealserve.serving.process.flag_table import GROUPS
from sealserve.serving.process.flags import Flag


class _ServeCommand(click.Command):
    """A command whose options are the table's, in its groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for group in GROUPS:
            with formatter.section(group.title):
                formatter.write_dl([(_usage(flag), _explanation(flag)) for flag in group.flags], col_max=34)


def _usage(flag: Flag) -> str:
    if flag.kind is bool:
        return f"--{flag.name}"
    return f"--{flag.name} {flag.metavar or {int: 'INTEGER', float: 'NUMBER', str: 'TEXT'}[flag.kind]}"


def _explanation(flag: Flag) -> str:
    reason = flag.note or flag.refusal
    if reason:
        return f"{reason[0].upper()}{reason[1:]}."
    if flag.default is False or flag.default == "":
        return flag.text
    return f"{flag.text} [{'on' if flag.default is True else flag.default}]"


def _options() -> list[click.Parameter]:
    return [_option(flag) for group in GROUPS for flag in group.flags]


def _option(flag: Flag) -> click.Option:
    settings: dict[str, Any] = {"type": flag.kind}
    if flag.kind is bool:
        # As TensorFlow Serving reads them: alone, or with `=true` or `=false`.
        settings |= {"is_flag": False, "flag_value": True}
    elif flag.kind in {int, float}:
        within = click.IntRange if flag.kind is int else click.FloatRange
        settings["type"] = within(flag.least, flag.most)
    return click.Option([f"--{flag.name}", flag.name], multiple=flag.several, default=None, **settings)


def _with_underscores(name: str) -> str:
    return name.replace("-", "_")


def _serve(**values: Any) -> None:
    given = {name: value for name, value in values.items() if value not in (None, ())}
    from sealserve.serving.process.command import serve as run

    run(given)


serve = _ServeCommand(
    "serve",
    callback=_serve,
    params=_options(),
    context_settings={"token_normalize_func": _with_underscores},
    short_help="Serve models as tensorflow_model_server does.",
    help="""Serve models as tensorflow_model_server does, with its flags and its files.

    One model: --model_base_path=/models/half_plus_two, the directory of its versions: /models/half_plus_two/1 holds a
    saved_model.pb. Several models have a file, --model_config_file. Without --ssl_config_file the server speaks to this
    machine alone.

    Flags are written `--flag=value` or `--flag value`, with underscores or with dashes; those without a value below are
    written alone, or with `=true` or `=false`. In brackets is what holds otherwise. docs/serving.md has more.
    """,
)
