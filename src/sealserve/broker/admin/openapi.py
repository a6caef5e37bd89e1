"""The API's description in OpenAPI 3.1, made from the operations that it serves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from sealserve import __version__
from sealserve.broker.admin.api import Operation

_PARAMETER = re.compile(r"{(\w+):((?:[^{}]|{[^{}]*})*)}")
_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what happened"},
        "reason": {"type": "string", "description": "a stable name of the cause"},
        "hint": {"type": "string", "description": "what to do"},
    },
}


def describe(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sealserve broker administration", "version": __version__},
        "paths": paths,
        "security": [{"token": []}, {"certificate": []}],
        "components": {
            "schemas": {"Problem": _PROBLEM},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{pattern}$"}}
        for name, pattern in _PARAMETER.findall(operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in _schema(operation.query).get("properties", {}).items()
    ]
    if operation.revised and operation.method != "GET":
        parameters.append({"name": "If-Match", "in": "header", "schema": {"type": "string"}})
    described: dict[str, Any] = {
        "summary": operation.summary,
        "description": f"For {operation.role}s.",
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": "Done.", "content": {"application/json": {}}},
            "default": {
                "description": "Refused.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(operation.body)}},
        }
    return described


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _inlined(schema, definitions)  # type: ignore[no-any-return]


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """References replaced by what they refer to: the document has no place for each model's own definitions."""
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            return _inlined(definitions[reference.removeprefix("#/$defs/")], definitions)
        return {name: _inlined(item, definitions) for name, item in value.items()}
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    return value
