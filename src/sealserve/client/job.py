"""What ``sealserve predict`` does: inputs out of files, one call for each picture, and results to show or to keep."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from rich.console import Console

from sealserve.client.client import Client
from sealserve.client.display import show_outputs, show_ranking
from sealserve.client.errors import RequestRefusedError
from sealserve.client.images import Framing, PixelRange, image_tensor, load_image
from sealserve.client.inputs import input_spec, read_json, read_npy
from sealserve.client.labels import Ranked, best, imagenet_labels, read_labels
from sealserve.client.messages import Prediction
from sealserve.client.metadata import ModelMetadata
from sealserve.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Job:
    """What to send and how to show the answer; either ``pictures`` by name, or ``arrays`` and ``input_json``.

    :param receipt: the file to keep a receipt in; with request and answer, if ``receipt_with_messages``.
    """

    pictures: tuple[tuple[str, Image.Image], ...]
    arrays: dict[str, Array]
    input_json: Path | None
    labels: tuple[str, ...] | None
    signature: str = "serving_default"
    version: int | None = None
    output: str | None = None
    top: int = 5
    framing: Framing = "whole"
    pixels: PixelRange = "0..1"
    receipt: Path | None = None
    receipt_with_messages: bool = False

    @classmethod
    def from_options(
        cls, *, images: tuple[Path, ...], arrays: tuple[str, ...], input_json: Path | None, labels: str, **rest: Any
    ) -> Self:
        """Read the command's options; files are read now, so that a bad one is told before anything is sent.

        :raises InputError: nothing is given to send, or both kinds, or a file cannot be read.
        """
        if bool(images) == bool(arrays or input_json):
            raise InputError(
                "give either pictures or arrays to send",
                hint="Use --image FILE, or --npy NAME=FILE, or --input-json FILE.",
            )
        if rest.get("receipt") and len(images) > 1:
            raise InputError("a receipt is for one answer, and several pictures are given", hint="Give one picture.")
        named = dict(_npy(text) for text in arrays)
        chosen: tuple[str, ...] | None = None
        if labels != "none":
            chosen = imagenet_labels() if labels == "imagenet" else read_labels(Path(labels))
        pictures = tuple((path.name, load_image(path)) for path in images)
        return cls(pictures=pictures, arrays=named, input_json=input_json, labels=chosen, **rest)


@dataclass(frozen=True)
class Result:
    """One answer: a ranking of classes, or the outputs themselves."""

    name: str
    prediction: Prediction
    ranking: list[Ranked] | None
    outputs: dict[str, Array]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; byte strings that are no UTF-8 become ``{"b64": ...}``."""
        out: dict[str, Any] = {
            "input": self.name,
            "replica": self.prediction.replica,
            "model_version": self.prediction.model_version,
            "seconds": round(self.prediction.seconds, 4),
        }
        if self.ranking is not None:
            out["best"] = [{"index": r.index, "label": r.label, "score": r.score} for r in self.ranking]
        else:
            out["outputs"] = {name: _plain(array.tolist()) for name, array in self.outputs.items()}
        return out


def run(client: Client, job: Job, model: str | None, console: Console, *, timeout: float) -> Iterator[Result]:
    """Send everything, and print each answer as it comes.

    :param model: the only one that the replica serves, if None. :param timeout: seconds for each call.
    """
    model = model or _only_model(client, timeout)
    metadata: ModelMetadata | None = None
    if job.pictures or job.input_json:
        metadata = client.metadata(model, version=job.version, timeout=timeout)
    calls: list[tuple[str, dict[str, Array]]] = []
    if job.pictures and metadata:
        spec = input_spec(metadata.signature(job.signature))
        for name, picture in job.pictures:
            tensor = image_tensor(picture, spec, framing=job.framing, pixels=job.pixels)
            calls.append((name, {spec.name: tensor}))
    else:
        inputs = dict(job.arrays)
        if job.input_json and metadata:
            inputs |= read_json(job.input_json, metadata.signature(job.signature))
        calls.append((", ".join(inputs), inputs))
    for name, inputs in calls:
        prediction = client.predict(
            inputs,
            model=model,
            signature=job.signature,
            version=job.version,
            outputs=[job.output] if job.output else [],
            receipt=job.receipt is not None,
            timeout=timeout,
        )
        if job.receipt is not None and prediction.receipt is not None:
            prediction.receipt.save(job.receipt, messages=job.receipt_with_messages)
        yield _result(job, name, prediction, console)


def _result(job: Job, name: str, prediction: Prediction, console: Console) -> Result:
    outputs = prediction.outputs
    scores = _scores(outputs, job.output) if job.pictures else None
    if scores is None:
        show_outputs(console, name, prediction, outputs)
        return Result(name, prediction, None, outputs)
    # Labels of another list would be wrong answers: the built-in ones are for 1,000 classes only.
    labels = job.labels if job.labels is not imagenet_labels() or len(scores) == len(imagenet_labels()) else None
    ranking = best(scores, labels, count=job.top)
    show_ranking(console, name, prediction, ranking)
    return Result(name, prediction, ranking, outputs)


def _scores(outputs: dict[str, Array], name: str | None) -> Array | None:
    """The scores of one input: the output of that name, or the only one with a list of floating-point numbers."""
    candidates = {
        key: array
        for key, array in outputs.items()
        if array.ndim == 2 and array.shape[0] == 1 and array.shape[1] > 1 and array.dtype.kind == "f"
    }
    if name is not None:
        candidates = {key: array for key, array in candidates.items() if key == name}
    return next(iter(candidates.values()))[0] if len(candidates) == 1 else None


def _only_model(client: Client, timeout: float) -> str:
    names = sorted({served.name for served in client.verify(timeout=timeout).claims.models})
    if len(names) != 1:
        raise RequestRefusedError(
            f"the replica serves {', '.join(names) or 'no model'}", hint="Say which model to call (--model)."
        )
    return names[0]


def _npy(text: str) -> tuple[str, Array]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise InputError(f"{text!r} is not NAME=FILE", hint="Write the input's name and a file: --npy x=x.npy")
    return name, read_npy(Path(path))


def _plain(value: Any) -> Any:
    match value:
        case list():
            return [_plain(item) for item in value]
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"b64": base64.b64encode(value).decode()}
        case complex():
            return [value.real, value.imag]
        case _:
            return value
