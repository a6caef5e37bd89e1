"""The Python packages of a replica's image, laid out as its Dockerfile does, from those that are installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata, resources
from pathlib import Path

import sealserve

_IMAGES = resources.files("sealserve.deploy.images")


def lay_out(engine: str, directory: Path) -> list[str]:
    """Put hard links to sealserve and to the packages of a lock file into ``directory``.

    :returns: the names of those that are not installed here.
    """
    missing = []
    lock = _IMAGES.joinpath(f"locks/{engine}.lock").read_text()
    for name in re.findall(r"^([a-z0-9.-]+)(?:\[[a-z,]+\])?==", lock, re.MULTILINE):
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        for file in files:
            source = Path(str(file.locate()))
            if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                link(source, directory / file)
    shutil.copytree(
        Path(sealserve.__file__).parent,
        directory / "sealserve",
        copy_function=link,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return missing


def prune(python: str | Path, directory: Path) -> None:
    """Take out of ``directory`` what the image does not have either."""
    with resources.as_file(_IMAGES.joinpath("files/prune.sh")) as script:
        subprocess.run(["/bin/sh", script, python, directory], check=True, timeout=900)


def link(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the two are on different file systems."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
