"""Reading a YAML file, and where each setting stands in it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from sealserve.configuration.explanations import explain
from sealserve.errors import ConfigurationError
from sealserve.files import read_file

_SIZE_LIMIT = 1 << 20
_DEPTH_LIMIT = 32

Location = tuple[int | str, ...]


class Settings(BaseModel):
    """Base of the models that configuration files are checked against: unknown settings are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory")
    return directory / path if directory is not None else path


RelativePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path that is relative to the configuration file it stands in."""


class SettingError(ValueError):
    """Raised by a validator of a section about one setting in it, whose line is to be named.

    :param location: of the setting, from the section that is validated.
    """

    def __init__(self, location: Location, text: str) -> None:
        super().__init__(text)
        self.location = location


ModelType = TypeVar("ModelType", bound=BaseModel)


def load_yaml(path: Path, model: type[ModelType]) -> ModelType:
    """Read a configuration file.

    :param model: what it must look like; see :class:`Settings`.
    :raises ConfigurationError: the file is no YAML or does not fit the model; the message lists every error.
    :raises InputError: it is missing, unreadable or larger than 1 MiB.
    """
    return parse_yaml(read_file(path, limit=_SIZE_LIMIT), model, path=path)


def parse_yaml(text: bytes | str, model: type[ModelType], *, path: Path) -> ModelType:
    """Like :func:`load_yaml`, for text that was read before.

    :param path: the file's name in errors, and what relative paths in it are relative to.
    """
    document = _Document(path)
    data = document.read(text)
    if document.errors:
        raise _configuration_error(document.errors)
    try:
        return model.model_validate(data, context={"directory": path.parent})
    except ValidationError as error:
        found = []
        for item in error.errors(include_url=False, include_input=False):
            item["loc"] += getattr(item.get("ctx", {}).get("error"), "location", ())
            setting, text_ = explain(model, item)
            line = document.line(item["loc"])
            found.append((line, f"{path}:{line}: {setting}: {text_}" if setting else f"{path}:{line}: {text_}"))
        raise _configuration_error([message for _, message in sorted(found)]) from None


def _configuration_error(messages: list[str]) -> ConfigurationError:
    return ConfigurationError("\n".join(messages), hint="Correct the file and run the command again.")


class _Document:
    """A YAML document and the line of each setting in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[str] = []
        self._lines: dict[Location, int] = {(): 1}

    def read(self, text: bytes | str) -> Any:
        """The plain data. Problems of the YAML itself are added to ``errors``."""
        loader: _Loader | None = None
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                return {}
            self._walk(node, ())
            return None if self.errors else loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._add(mark.line + 1 if mark else 1, error.problem or "is not valid YAML")
        except (yaml.YAMLError, ValueError, RecursionError):
            self._add(1, "is not valid YAML, or not UTF-8 text")
        finally:
            if loader is not None:
                loader.dispose()
        return None

    def line(self, location: Location) -> int:
        """The line of a setting, or of the closest section around it that stands in the file."""
        known: Location = ()
        for part in location:
            if (*known, part) in self._lines:
                known = (*known, part)
        return self._lines[known]

    def _add(self, line: int, text: str) -> None:
        self.errors.append(f"{self.path}:{line}: {text}")

    def _walk(self, node: yaml.Node, location: Location) -> None:
        if len(location) > _DEPTH_LIMIT:
            raise ValueError("nested too deeply")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[*location, index] = item.start_mark.line + 1
                self._walk(item, (*location, index))
        elif isinstance(node, yaml.MappingNode):
            seen: dict[Hashable, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    self._add(line, "a setting's name must be plain text")
                    continue
                if key.value in seen:
                    name = ".".join(str(part) for part in (*location, key.value))
                    self._add(line, f"{name}: is given twice (first in line {seen[key.value]})")
                seen[key.value] = line
                self._lines[*location, key.value] = line
                self._walk(value, (*location, key.value))


class _Loader(yaml.SafeLoader):
    """YAML without aliases: nobody needs them here, and they can make a small file expand without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported here", problem_mark=mark)
        return super().compose_node(parent, index)
