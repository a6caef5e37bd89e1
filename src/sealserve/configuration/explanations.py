"""What pydantic finds wrong with a setting, in words for the person who wrote the file."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_PHRASES: Mapping[str, str] = {
    "missing": "is missing",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be text; put it in quotes if it looks like a number",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "dict_type": "must be a section with names and values",
    "model_type": "must be a section with names and values",
    "model_attributes_type": "must be a section with names and values",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "none_required": "must be empty",
    "union_tag_not_found": "needs {discriminator}",
    "union_tag_invalid": "must have {discriminator} set to one of {expected_tags}",
}


def explain(model: type[BaseModel], error: ErrorDetails) -> tuple[str, str]:
    """The setting's name, such as ``replicas[0].count``, and what is wrong with it.

    :param error: one of pydantic's ``ValidationError.errors()``.
    """
    location = error["loc"]
    owner, field = _find(model, location)
    setting = _name(location)
    kind = error["type"]
    if kind == "extra_forbidden":
        return setting, _unknown(owner, str(location[-1]))
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind in {"value_error", "assertion_error"}:
        return setting, str(context.get("error", error["msg"]))  # a model's own words need no explanation
    text = _PHRASES[kind].format_map(context) if kind in _PHRASES else _lowered(error["msg"])
    if field is not None and field.description:
        text += f" ({field.description})"
    return setting, text


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _unknown(owner: type[BaseModel] | None, name: str) -> str:
    known = _settings(owner) if owner is not None else []
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"is not a known setting; did you mean {close[0]}?"
    return "is not a known setting" + (f"; known here: {', '.join(known)}" if known else "")


def _settings(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _name(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _find(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model that the last part of ``location`` belongs to, and its field if there is one."""
    owners: list[type[BaseModel]] = [model]
    owner: type[BaseModel] | None = model
    field: FieldInfo | None = None
    for part in location:
        if isinstance(part, int):
            continue  # An entry of a list: its model is among those of the list's annotation.
        for candidate in owners:
            found = next((f for n, f in candidate.model_fields.items() if part in (n, f.alias)), None)
            if found is not None:
                owner, field = candidate, found
                owners = list(_models(found.annotation))
                break
        else:
            owner, field = (owners[0] if owners else None), None
    return owner, field


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation such as ``list[Enclave] | None``."""
    arguments = typing.get_args(annotation)
    if arguments:
        for argument in arguments:
            yield from _models(argument)
    elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
