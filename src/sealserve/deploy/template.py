"""The commented ``deployment.yaml`` that ``sealserve init`` writes, rendered from the schema's own descriptions."""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sealserve.addresses import Address
from sealserve.deploy.deployment import Deployment

_WIDTH = 100
_HEADER = """\
# A deployment of sealserve. `sealserve up -f deployment.yaml` runs it on this machine.
# Lines that stand here with their default value can be left out.
"""


def render_template(values: Mapping[str, Any]) -> str:
    """The text of a commented ``deployment.yaml``.

    :param values: dotted field name → value, where something else than the default or example shall stand,
        e.g. ``{"model.path": "models/resnet"}``. An optional section is there if a value of it is given; its other
        settings are comments then.
    """
    lines = list(_render(Deployment, values, prefix="", indent=0))
    return _HEADER + "\n".join(lines) + "\n"


def _render(
    model: type[BaseModel], values: Mapping[str, Any], *, prefix: str, indent: int, sparse: bool = False
) -> Iterator[str]:
    pad = " " * indent
    for name, field in model.model_fields.items():
        if indent == 0:
            yield ""
        for line in textwrap.wrap(_comment(field), _WIDTH - indent - 2):
            yield f"{pad}# {line}"
        section = _section(field)
        within = f"{prefix}{name}."
        optional = sparse or field.annotation is not section
        if section is not None and (not optional or any(key.startswith(within) for key in values)):
            yield f"{pad}{name}:"
            yield from _render(section, values, prefix=within, indent=indent + 2, sparse=optional)
            continue
        value = values.get(f"{prefix}{name}", None if sparse else _initial(field))
        if value is None:
            suggested = f"{name}: {_scalar(_suggestion(field) if sparse else _example(field))}"
            for line in textwrap.wrap(
                suggested,
                _WIDTH - indent - 2,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            ):
                yield f"{pad}# {line}"
        else:
            yield f"{pad}{name}: {_scalar(value)}"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, whether it may be left out or not."""
    for kind in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _suggestion(field: FieldInfo) -> Any:
    """What could stand in the place of a setting that is a comment."""
    if field.examples:
        return field.examples[0]
    section = _section(field)
    if section is not None:
        inner = {name: _suggestion(found) for name, found in section.model_fields.items() if found.default is not None}
        return [inner] if typing.get_origin(field.annotation) is list else inner
    return "..." if field.default is PydanticUndefined or field.default is None else field.default


def _comment(field: FieldInfo) -> str:
    choices = _choices(field)
    return f"{field.description} One of: {', '.join(choices)}." if len(choices) > 1 else str(field.description)


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()


def _initial(field: FieldInfo) -> Any:
    return _example(field) if field.default is PydanticUndefined else field.default


def _example(field: FieldInfo) -> Any:
    if not field.examples:
        raise ValueError(f"the field {field.description!r} has neither default nor example")
    return field.examples[0]


def _scalar(value: Any) -> str:
    plain = str(value) if isinstance(value, Address | Path) else value
    return (
        yaml.safe_dump(plain, width=10_000, allow_unicode=True, default_flow_style=True).removesuffix("...\n").strip()
    )
