"""Configuration files in YAML: read strictly, checked against a pydantic model, with errors that name the line.

An error reads ``deployment.yaml:12: replicas.count: must be at least 1 (number of replicas to run)``: file, line,
setting, what is wrong, and what the setting means (the field's ``description``). All errors of a file are listed at
once. The values that were given are never repeated, because a value may be a secret in the wrong place.

Stricter than YAML: a duplicate key, an unknown key and an alias (``*name``) are errors.
"""

from __future__ import annotations

from sealserve.configuration.yaml_file import RelativePath, SettingError, Settings, load_yaml, parse_yaml

__all__ = ["RelativePath", "SettingError", "Settings", "load_yaml", "parse_yaml"]
