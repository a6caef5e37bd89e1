"""The profiles that come with sealserve, found by name."""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from pathlib import Path

from sealserve.configuration import parse_yaml
from sealserve.deploy.clouds.profile import CloudProfile
from sealserve.errors import ConfigurationError


def profile_names() -> tuple[str, ...]:
    """The names that :func:`load_profile` knows, sorted."""
    files = resources.files(__package__).joinpath("profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def load_profile(name: str) -> CloudProfile:
    """The profile ``NAME`` or ``NAME:REGION``.

    :raises ConfigurationError: there is none of that name, or the region does not fit.
    """
    plain, colon, region = name.partition(":")
    if plain not in profile_names():
        close = difflib.get_close_matches(plain, profile_names(), n=1)
        guess = f" Did you mean {close[0]}?" if close else ""
        raise ConfigurationError(
            f"there is no cloud profile {plain!r}", hint=f"There are {', '.join(profile_names())}.{guess}"
        )
    profile = _load(plain)
    return profile.at(region) if colon else profile


@functools.cache
def _load(name: str) -> CloudProfile:
    file = resources.files(__package__).joinpath("profiles", f"{name}.yaml")
    return parse_yaml(file.read_text(encoding="utf-8"), CloudProfile, path=Path(f"{name}.yaml"))
