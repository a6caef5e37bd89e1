"""Name and password for a registry, from where container engines keep them when somebody logged in.

Podman's and Buildah's file is ``auth.json`` (containers-auth.json(5)), Docker's ``config.json``; the format is one:
``auths`` with base64 of ``NAME:PASSWORD``, and ``credHelpers`` and ``credsStore`` with programs that know it
(docker-credential-NAME). Programs are told the registry on standard input.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sealserve.errors import InputError, MachineError
from sealserve.files import read_file

_DOCKER_HUB: Final = "https://index.docker.io/v1/"
_BY_TOKEN: Final = "<token>"  # noqa: S105 - the word by which programs say that it is one


@dataclass(frozen=True)
class Credentials:
    """Who asks. :ivar source: file or program that they are from."""

    user: str
    source: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """The value of the header ``Authorization`` (RFC 7617)."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


def find_credentials(host: str, path: str) -> Credentials | None:
    """What is known for the repository ``path`` of a registry; None if nobody logged in.

    :param host: as people write it, e.g. ``docker.io``.
    :raises InputError: a file is damaged. :raises MachineError: a program of a file fails.
    """
    for file in _files():
        if file.is_file():
            content = _read(file)
            found = _listed(content, file, host, path) or _by_helper(content, file, host)
            if found is not None:
                return found
    return None


def _files() -> Iterator[Path]:
    home, runtime = Path.home(), os.environ.get("XDG_RUNTIME_DIR")
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(runtime, "containers/auth.json") if runtime else Path(f"/run/containers/{os.getuid()}/auth.json")
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json")
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker", "config.json")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_file(file, limit=1 << 20))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"{file} is no JSON with logins to registries", hint="Log in again with your container engine."
        )
    return content


def _listed(content: dict[str, Any], file: Path, host: str, path: str) -> Credentials | None:
    auths = content.get("auths")
    if not isinstance(auths, dict):
        return None
    parts = path.split("/")
    # Podman also keeps logins to a part of a registry: the longest that fits counts.
    keys = [f"{host}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
    keys += [host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    keys += [_DOCKER_HUB] if host == "docker.io" else []
    entry = next((auths[key] for key in keys if isinstance(auths.get(key), dict) and auths[key]), None)
    if entry is None:
        return None
    if entry.get("identitytoken"):
        raise _no_password(file)
    try:
        user, colon, password = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
    except (ValueError, TypeError, binascii.Error):
        user = colon = password = ""
    if not colon:
        raise InputError(f"{file} has no name and password for {host}", hint="Log in again with your container engine.")
    return Credentials(user, str(file), password.rstrip("\0"))


def _by_helper(content: dict[str, Any], file: Path, host: str) -> Credentials | None:
    helpers = content.get("credHelpers")
    named = helpers.get(host) if isinstance(helpers, dict) else None
    name = named or content.get("credsStore")
    if not isinstance(name, str):
        return None
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise InputError(f"{file} names a program for logins that is none")
    program = shutil.which(f"docker-credential-{name}")
    if program is None:
        raise MachineError(f"docker-credential-{name}, which {file} names, is not installed")
    asked = _DOCKER_HUB if host == "docker.io" else host
    try:
        done = subprocess.run([program, "get"], input=asked.encode(), capture_output=True, check=False, timeout=60)
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise MachineError(f"docker-credential-{name} does not say how to log in to {host}") from None
    if answer is None:  # that is how it says that it knows nothing
        return None
    user, password = (answer.get(key) if isinstance(answer, dict) else None for key in ("Username", "Secret"))
    if not isinstance(user, str) or not isinstance(password, str):
        raise MachineError(f"docker-credential-{name} does not say how to log in to {host}")
    if user == _BY_TOKEN:
        raise _no_password(file)
    return Credentials(user, f"docker-credential-{name}", password)


def _no_password(file: Path) -> InputError:
    return InputError(
        f"{file} has a token of identity for this registry, which only its own programs can use",
        hint="Log in with a name and a password or access token of the registry.",
    )
