"""What a flag is, and what becomes of one that has no meaning here: a note or a refusal, never silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sealserve.errors import ConfigurationError

Value = bool | int | float | str


@dataclass(frozen=True)
class Flag:
    """One flag of the command line.

    :ivar name: with underscores, as TensorFlow Serving writes it; dashes are taken too.
    :ivar default: its value where it is not given. The type of it is the type of the flag.
    :ivar text: what it does, for ``--help``.
    :ivar least: the lowest number that it takes. :ivar most: the highest.
    :ivar note: why it has no meaning here. It is accepted, and the note is logged.
    :ivar refusal: why it cannot be done here. :ivar hint: what to do instead.
    :ivar idle: values that ask for what is so anyway: neither note nor refusal.
    :ivar several: may be given more than once.
    """

    name: str
    default: Value
    text: str
    least: int | None = None
    most: int | None = None
    note: str = ""
    refusal: str = ""
    hint: str = ""
    idle: tuple[Value, ...] = ()
    several: bool = False
    metavar: str = ""

    def __post_init__(self) -> None:
        if self.note and self.refusal:
            raise ValueError(f"{self.name} is either noted or refused")

    @property
    def kind(self) -> type[bool | int | float | str]:
        """The type of its value."""
        return type(self.default)


@dataclass(frozen=True)
class Group:
    """Flags that belong together in ``--help``."""

    title: str
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Note:
    """A flag or a setting of a file that was accepted and has no meaning here, and why."""

    setting: str
    text: str


def examine(flags: Mapping[str, Flag], given: Mapping[str, Value]) -> list[Note]:
    """Look at the flags that were given.

    :param given: by name; those that were not given are not in it.
    :returns: notes about those without a meaning here.
    :raises ConfigurationError: one of them asks for what cannot be done here.
    """
    notes = []
    for name, value in given.items():
        flag = flags[name]
        if value in flag.idle:
            continue
        if flag.refusal:
            raise ConfigurationError(f"--{name} cannot be done here: {flag.refusal}", hint=flag.hint)
        if flag.note:
            notes.append(Note(f"--{name}", flag.note))
    return notes
