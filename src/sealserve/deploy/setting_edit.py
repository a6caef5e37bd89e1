"""Changing one setting of a ``deployment.yaml`` and nothing else in it: comments, order and all other bytes stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sealserve.deploy.deployment import load_deployment
from sealserve.errors import InputError
from sealserve.files import read_file, write_atomically


def write_setting(path: Path, setting: str, value: str) -> bool:
    """Put ``value`` into the place of a setting that has one already.

    :param setting: dotted name, such as ``kubernetes.image``. :param value: text without quotes or spaces.
    :returns: whether the file changed.
    :raises InputError: the file has no such setting: a line to put there is in the message.
    """
    load_deployment(path)
    text = read_file(path).decode()
    keys = setting.split(".")
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((inner for name, inner in pairs if name.value == key), None)
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(
            f"{path} has no setting {setting}, in whose place {value} could be written",
            hint=f"Write it there by hand: {as_yaml(setting, value)}",
        )
    changed = f"{text[: node.start_mark.index]}{value}{text[node.end_mark.index :]}"
    if changed == text:
        return False
    wanted = yaml.safe_load(text)
    _put(wanted, keys, value)
    try:
        says = yaml.safe_load(changed)
    except yaml.YAMLError:
        says = None
    if says != wanted:  # text over several lines
        raise InputError(
            f"{path}: {setting} is written in a way that cannot be replaced",
            hint=f"Write it there by hand: {as_yaml(setting, value)}",
        )
    write_atomically(path, changed, mode=path.stat().st_mode & 0o777)
    return True


def as_yaml(setting: str, value: str) -> str:
    """One line of YAML that says it: ``{kubernetes: {image: VALUE}}`` without the outer braces."""
    *outer, last = setting.split(".")
    return "".join(f"{key}: {{" for key in outer) + f"{last}: '{value}'" + "}" * len(outer)


def _put(content: Any, keys: list[str], value: str) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value
