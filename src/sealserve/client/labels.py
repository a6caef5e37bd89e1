"""Names for the numbers that a classifier gives."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sealserve.errors import InputError
from sealserve.files import read_file

IMAGENET_CLASSES = 1000


@functools.cache
def imagenet_labels() -> tuple[str, ...]:
    """Short English names of the 1,000 classes of ImageNet (ILSVRC 2012), in the usual order; all distinct.

    They are the first WordNet lemma of each class, with a word added where two classes share it (crane, maillot).
    """
    text = resources.files(__package__).joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_labels(path: Path) -> tuple[str, ...]:
    """A file with one label a line, in the order of the classes.

    :raises InputError: it cannot be read, is no text, or is larger than 16 MiB.
    """
    data = read_file(path)
    try:
        return tuple(line.strip() for line in data.decode("utf-8").splitlines())
    except ValueError as error:
        raise InputError(f"{path} is no list of labels", hint="Give a text file with one label a line.") from error


@dataclass(frozen=True)
class Ranked:
    """One class of an answer: its index, its label if it has one, and its score as the model gave it."""

    index: int
    label: str | None
    score: float


def best(scores: np.ndarray[Any, np.dtype[Any]], labels: tuple[str, ...] | None, *, count: int = 5) -> list[Ranked]:
    """The classes with the highest scores, best first; equal scores in the order of the classes.

    :param scores: of one input, in one dimension. :param labels: one for each score, or None.
    :raises InputError: there are scores without a label, or the scores are not numbers in one dimension.
    """
    if scores.ndim != 1 or scores.dtype.kind not in "fiu":
        raise InputError(f"an output of shape {scores.shape} and type {scores.dtype} is no list of scores")
    if labels is not None and len(labels) < len(scores):
        raise InputError(
            f"the model has {len(scores)} classes, but there are {len(labels)} labels",
            hint="Give the model's own list with --labels, or --labels none.",
        )
    order = np.argsort(-scores.astype(np.float64), kind="stable")[:count]
    return [Ranked(int(i), labels[i] if labels is not None else None, float(scores[i])) for i in order]
