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
        e.g. ``{"model.path": "models/resnet"}``.
    """
    lines = list(_render(Deployment, values, prefix="", indent=0))
    return _HEADER + "\n".join(lines) + "\n"


def _render(model: type[BaseModel], values: Mapping[str, Any], *, prefix: str, indent: int) -> Iterator[str]:
    pad = " " * indent
    for name, field in model.model_fields.items():
        if indent == 0:
            yield ""
        for line in textwrap.wrap(_comment(field), _WIDTH - indent - 2):
            yield f"{pad}# {line}"
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield f"{pad}{name}:"
            yield from _render(annotation, values, prefix=f"{prefix}{name}.", indent=indent + 2)
            continue
        value = values.get(f"{prefix}{name}", _initial(field))
        if value is None:
            yield f"{pad}# {name}: {_scalar(_example(field))}"
        else:
            yield f"{pad}{name}: {_scalar(value)}"


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
