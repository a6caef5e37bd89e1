"""What to send where nobody named an input: random data, or a picture, in the shape that the model's metadata tells."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from sealserve.client.errors import RequestRefusedError
from sealserve.client.images import image_tensor
from sealserve.client.inputs import input_spec
from sealserve.client.metadata import Signature, TensorSpec
from sealserve.wire.bfloat16 import narrow

Array = np.ndarray[Any, np.dtype[Any]]

_PICTURE_SIZE = 224  # of a picture's free sides; other free dimensions become 1
_MOST_BYTES = 1 << 30
_FLOATS = {"float": np.float32, "half": np.float16, "double": np.float64}


def dummy_inputs(signature: Signature, batch: int, seed: int | None = None) -> dict[str, Array]:
    """A random value for each input: 0..255 for numbers as of a picture, as the seed's client sends them.

    :param batch: the size of the first dimension, where it is free.
    :raises RequestRefusedError: an input takes nothing of the kind, or has another fixed batch.
    """
    random = np.random.default_rng(seed)
    return {name: _dummy(spec, batch, random) for name, spec in signature.inputs.items()}


def picture_inputs(signature: Signature, picture: Image.Image, batch: int) -> dict[str, Array]:
    """One picture ``batch`` times, with pixels 0..255.

    :raises RequestRefusedError: the model takes no single picture.
    """
    spec = input_spec(signature)
    one = image_tensor(picture, spec, pixels="0..255")
    if batch > 1 and spec.shape is not None and spec.shape[0] is not None:
        raise _fixed(spec, batch)
    return {spec.name: np.repeat(one, batch, axis=0)}


def _dummy(spec: TensorSpec, batch: int, random: np.random.Generator) -> Array:
    shape = spec.shape if spec.shape is not None else (None,)
    if shape and shape[0] not in {None, batch}:
        raise _fixed(spec, batch)
    free = _PICTURE_SIZE if len(shape) == 4 else 1
    sizes = [size if size is not None else free for size in shape]
    if len(shape) == 4 and shape[3] is None and shape[1] != 3:
        sizes[3] = 3
    if shape:
        sizes[0] = batch
    if int(np.prod(sizes, dtype=object)) > _MOST_BYTES // 8:
        raise RequestRefusedError(f"the model's input {spec} is too large for a dummy", hint="Choose a smaller batch.")
    pixels = random.integers(0, 256, sizes, dtype=np.uint8)
    match spec.dtype:
        case "float" | "half" | "double":
            return pixels.astype(_FLOATS[spec.dtype])
        case "bfloat16":
            return narrow(pixels)
        case "bool":
            return pixels > 127
        case "string":
            raise RequestRefusedError(f"no dummy can be made for the input {spec}", hint="Use `sealserve predict`.")
        case _:
            return pixels.astype(spec.dtype) if spec.dtype != "int8" else (pixels // 2).astype(np.int8)


def _fixed(spec: TensorSpec, batch: int) -> RequestRefusedError:
    fixed = spec.shape[0] if spec.shape else 1
    return RequestRefusedError(
        f"the model's input {spec} takes no batch of {batch}", hint=f"Ask for a batch of {fixed}."
    )
