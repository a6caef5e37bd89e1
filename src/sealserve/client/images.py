"""Pictures as a classifier wants them: upright, RGB, cropped at the centre, resized.

Two ways of framing, both with a bicubic filter. ``whole`` squeezes the whole picture into the model's size, so that a
subject at the edge is not lost. ``center`` is what EfficientNet's authors evaluate with: the central square of ``size
/ (size + 32)`` of the shorter side (tensorflow/tpu, ``models/official/efficientnet/preprocessing.py``).
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sealserve.client.errors import RequestRefusedError
from sealserve.client.metadata import TensorSpec
from sealserve.errors import ImageError, InputError
from sealserve.files import read_file
from sealserve.wire.bfloat16 import narrow

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 100_000_000
"""Pictures beyond these sizes are refused before they are unpacked: a small file can stand for gigabytes."""

_PADDING = 32
_DEFAULT_SIZE = 224

PixelRange = Literal["0..255", "0..1", "-1..1"]
Framing = Literal["whole", "center"]
Array = np.ndarray[Any, np.dtype[Any]]


def load_image(path: Path) -> Image.Image:
    """Read a picture file, turned as its EXIF data says, as RGB (transparency on white).

    :raises ImageError: the file is missing, no picture, damaged, or too large.
    """
    try:
        data = read_file(path, limit=MAX_FILE_BYTES)
    except InputError as error:
        raise ImageError(error.message, hint=error.hint) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused here anyway, and of odd metadata
            picture = Image.open(io.BytesIO(data))
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_many_pixels(path)
            return _as_rgb(ImageOps.exif_transpose(picture), path)
    except Image.DecompressionBombError as error:  # Pillow's own limit, where it comes first
        raise _too_many_pixels(path) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is no picture", hint="Give a JPEG, PNG, WebP, GIF, BMP or TIFF file that other programs can open."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise ImageError(f"{path} is a damaged picture: {error}", hint="Save the picture anew.") from error


def _too_many_pixels(path: Path) -> ImageError:
    return ImageError(f"{path} has more than {MAX_PIXELS:,} pixels", hint="Give a smaller picture.")


def center_crop(picture: Image.Image, height: int, width: int) -> Array:
    """The central part of ``picture``, of the target's aspect ratio, as uint8 of shape (height, width, 3).

    The part that is kept is ``size / (size + 32)`` of the largest that fits, in both directions.
    """
    scale = min(picture.width / (width + _PADDING), picture.height / (height + _PADDING))
    box_width, box_height = scale * width, scale * height
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def whole(picture: Image.Image, height: int, width: int) -> Array:
    """The whole of ``picture``, whatever its aspect ratio, as uint8 of shape (height, width, 3)."""
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)


def image_tensor(
    picture: Image.Image, spec: TensorSpec, *, framing: Framing = "whole", pixels: PixelRange = "0..1"
) -> Array:
    """A picture as a batch of one for an input of a signature.

    :param spec: its shape is (batch, height, width, 3) or (batch, 3, height, width); a free size becomes 224.
    :param framing: see the module's text.
    :param pixels: the range of values for floating-point inputs; ``uint8`` is always 0..255.
    :raises RequestRefusedError: the input takes no pictures.
    """
    shape = spec.shape if spec.shape is not None else (None, None, None, 3)
    channels_first = len(shape) == 4 and shape[1] == 3 and shape[3] != 3
    if len(shape) != 4 or shape[0] not in {None, 1} or shape[1 if channels_first else 3] not in {None, 3}:
        raise RequestRefusedError(
            f"the model's input {spec} takes no single RGB picture", hint="Send an array instead (--npy)."
        )
    height, width = shape[2:] if channels_first else shape[1:3]
    frame = center_crop if framing == "center" else whole
    framed = frame(picture, height or _DEFAULT_SIZE, width or _DEFAULT_SIZE)
    if channels_first:
        framed = framed.transpose(2, 0, 1)
    batch = np.ascontiguousarray(framed)[np.newaxis]
    match spec.dtype:
        case "uint8":
            return batch
        case "float" | "half" | "double" | "bfloat16":
            dtype = {"float": np.float32, "half": np.float16, "double": np.float64}.get(spec.dtype)
            values = batch.astype(np.float32)
            if pixels == "0..1":
                values /= 255
            elif pixels == "-1..1":
                values = values / 127.5 - 1
            return narrow(values) if dtype is None else values.astype(dtype)
        case "int32" | "int64":
            return batch.astype(spec.dtype)
        case _:
            raise RequestRefusedError(
                f"the model's input {spec} takes no picture", hint="Send an array instead (--npy or --input-json)."
            )


def _as_rgb(picture: Image.Image, path: Path) -> Image.Image:
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    if picture.mode == "F":
        # 0..1, 0..255, or a measurement: the file does not say.
        raise ImageError(
            f"{path} has floating-point pixels, and does not say which number is white",
            hint="Save it with 8 or 16 bits a pixel, or send it as an array (--npy).",
        )
    if picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.float64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError(
                f"{path} has pixels beyond 0 to 65535, and does not say which number is white",
                hint="Save it with 8 or 16 bits a pixel, or send it as an array (--npy).",
            )
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
