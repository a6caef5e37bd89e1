"""Pictures, arrays and labels out of files, good and bad."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sealserve.client.errors import RequestRefusedError
from sealserve.client.images import center_crop, image_tensor, load_image, whole
from sealserve.client.inputs import input_spec, read_json, read_npy
from sealserve.client.labels import best, imagenet_labels, read_labels
from sealserve.client.metadata import Signature, TensorSpec
from sealserve.errors import ImageError, InputError
from sealserve.wire.bfloat16 import BFLOAT16, widen

UINT8 = TensorSpec("images", "uint8", (None, 224, 224, 3))


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green grows downwards."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[..., 0] = np.linspace(0, 255, width)[np.newaxis]
    array[..., 1] = np.linspace(0, 255, height)[:, np.newaxis]
    return Image.fromarray(array)


def test_a_picture_becomes_what_the_signature_wants(tmp_path):
    gradient(300, 200).save(tmp_path / "x.png")
    tensor = image_tensor(load_image(tmp_path / "x.png"), UINT8)
    assert (tensor.shape, tensor.dtype) == ((1, 224, 224, 3), np.uint8)


def test_the_whole_picture_reaches_from_edge_to_edge():
    array = whole(gradient(600, 300), 100, 100)
    assert array[50, 0, 0] <= 4
    assert array[50, -1, 0] >= 251


def test_the_centre_is_the_share_that_efficientnet_is_evaluated_with():
    array = center_crop(gradient(512, 256), 224, 224)
    # The central square of 224 pixels: columns 144 to 368 of 512, rows 16 to 240 of 256.
    assert abs(int(array[112, 0, 0]) - 144 / 511 * 255) <= 2
    assert abs(int(array[112, -1, 0]) - 367 / 511 * 255) <= 2
    assert abs(int(array[0, 112, 1]) - 16 / 255 * 255) <= 2
    assert abs(int(array[-1, 112, 1]) - 239) <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
@pytest.mark.parametrize("framing", ["whole", "center"])
def test_odd_sizes_are_framed_too(size, framing):
    assert image_tensor(gradient(*size), UINT8, framing=framing).shape == (1, 224, 224, 3)


def test_the_camera_s_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees to see it right
    gradient(300, 200).save(tmp_path / "x.jpg", exif=exif, quality=95)
    picture = load_image(tmp_path / "x.jpg")
    assert picture.size == (200, 300)
    # What grew to the right grows downwards now.
    assert picture.getpixel((100, 290))[0] > picture.getpixel((100, 10))[0] + 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_kind_of_colour_becomes_rgb(mode, tmp_path):
    suffix = "tiff" if mode in {"CMYK", "YCbCr"} else "png"
    picture = Image.fromarray(np.full((8, 8), 40000, np.uint16)) if mode == "I;16" else Image.new(mode, (8, 8), 1)
    picture.save(tmp_path / f"x.{suffix}")
    assert load_image(tmp_path / f"x.{suffix}").mode == "RGB"


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "x.png")
    assert abs(load_image(tmp_path / "x.png").getpixel((4, 4))[0] - 128) <= 1


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png").getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(("pixels", "low", "high"), [("0..1", 0.0, 1.0), ("-1..1", -1.0, 1.0), ("0..255", 0.0, 255.0)])
def test_floating_point_inputs_get_their_range(pixels, low, high):
    spec = TensorSpec("x", "float", (None, 4, 4, 3))
    black, whiteness = (image_tensor(Image.new("RGB", (9, 9), c), spec, pixels=pixels) for c in ("black", "white"))
    assert black.dtype == np.float32
    assert (black == low).all()
    assert (whiteness == high).all()


def test_a_picture_may_be_bfloat16():
    tensor = image_tensor(Image.new("RGB", (9, 9), "white"), TensorSpec("x", "bfloat16", (None, 4, 4, 3)))
    assert tensor.dtype == BFLOAT16
    assert (widen(tensor) == 1).all()


def test_channels_come_first_where_the_signature_has_them_first():
    tensor = image_tensor(gradient(30, 30), TensorSpec("x", "float", (1, 3, 16, 20)))
    assert tensor.shape == (1, 3, 16, 20)
    assert tensor[0, 0, 8, -1] > tensor[0, 0, 8, 0] + 0.8


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "float", (None, 10)),
        TensorSpec("x", "float", (8, 224, 224, 3)),
        TensorSpec("x", "float", (None, 224, 224, 1)),
        TensorSpec("x", "string", (None, 224, 224, 3)),
        TensorSpec("x", "string", (None,)),
    ],
)
def test_a_model_that_takes_no_picture_is_told_as_such(spec):
    with pytest.raises(RequestRefusedError, match="picture"):
        image_tensor(gradient(8, 8), spec)


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "x.jpg").write_text("I am no picture")
    with pytest.raises(ImageError, match="no picture") as caught:
        load_image(tmp_path / "x.jpg")
    assert caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["missing.jpg", "."])
def test_a_file_that_cannot_be_read_is_refused(name, tmp_path):
    with pytest.raises(ImageError):
        load_image(tmp_path / name)


def test_a_picture_that_ends_early_is_refused(tmp_path):
    out = io.BytesIO()
    gradient(400, 400).save(out, "PNG")
    (tmp_path / "x.png").write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    with pytest.raises(ImageError, match="damaged"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 10_000)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(size, tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "x.png").write_bytes(bomb)
    with pytest.raises(ImageError, match="100,000,000 pixels"):
        load_image(tmp_path / "x.png")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_a_picture_or_an_image_error(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    out = io.BytesIO()
    gradient(20, 20).save(out, kind)
    content = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        assert load_image(path).mode == "RGB"


# --- labels -------------------------------------------------------------------------------------------------------


def test_the_labels_of_imagenet_are_in_their_order_and_distinct():
    labels = imagenet_labels()
    assert len(labels) == len({label.lower() for label in labels}) == 1000
    known = {0: "tench", 1: "goldfish", 281: "tabby", 404: "airliner", 652: "military uniform", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known
    assert (labels[134], labels[517]) == ("crane (bird)", "crane (machine)")


def test_the_best_classes_come_first_and_equals_in_their_order():
    ranking = best(np.array([0.1, 0.5, 0.1, 0.3], dtype=np.float32), ("a", "b", "c", "d"), count=3)
    assert [(r.index, r.label) for r in ranking] == [(1, "b"), (3, "d"), (0, "a")]
    assert ranking[0].score == 0.5


def test_too_few_labels_are_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    labels = read_labels(tmp_path / "labels.txt")
    assert labels == ("one", "two")
    with pytest.raises(InputError, match="3 classes, but there are 2"):
        best(np.arange(3.0), labels)


def test_labels_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="labels"):
        read_labels(tmp_path / "labels.txt")


# --- arrays -------------------------------------------------------------------------------------------------------

SIGNATURE = Signature(
    "serving_default",
    {"x": TensorSpec("x", "float", (None, 2)), "words": TensorSpec("words", "string", (None,))},
    {},
)
ONE_INPUT = Signature("serving_default", {"x": TensorSpec("x", "int64", (None,))}, {})


def test_an_array_file_is_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), [[0, 1, 2], [3, 4, 5]])


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        read_npy(tmp_path / "x.npy")


def test_what_is_no_array_file_is_refused(tmp_path):
    np.savez(tmp_path / "several.npz", a=np.ones(2))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"1 2 3")
    for name in ("several.npz", "empty", "text", "missing"):
        with pytest.raises(InputError):
            read_npy(tmp_path / name)


@pytest.mark.parametrize("wrapped", [True, False])
def test_json_takes_the_types_of_the_signature(wrapped, tmp_path):
    inputs = {"x": [[1, 2]], "words": ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", {"b64": "AAE="}]}
    (tmp_path / "x.json").write_text(json.dumps({"inputs": inputs} if wrapped else inputs))
    arrays = read_json(tmp_path / "x.json", SIGNATURE)
    assert arrays["x"].dtype == np.float32
    assert arrays["words"].tolist() == ["caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"\0\1"]


def test_json_has_bfloat16_as_numbers(tmp_path):
    (tmp_path / "x.json").write_text('{"inputs": [1.5, -2]}')
    signature = Signature("serving_default", {"x": TensorSpec("x", "bfloat16", (None,))}, {})
    assert widen(read_json(tmp_path / "x.json", signature)["x"]).tolist() == [1.5, -2]


def test_json_may_leave_out_the_name_of_an_only_input(tmp_path):
    (tmp_path / "x.json").write_text('{"inputs": [1, 2]}')
    assert read_json(tmp_path / "x.json", ONE_INPUT)["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{",
        "[" * 100_000,
        '{"y": 1}',
        '{"x": [[1, 2], [3]]}',
        '{"x": "one"}',
        '{"words": [1]}',
        '{"words": [{"b64": "?"}]}',
    ],
)
def test_json_that_does_not_fit_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError):
        read_json(tmp_path / "x.json", SIGNATURE)


def test_an_input_must_be_named_where_there_are_several():
    assert input_spec(ONE_INPUT).name == "x"
    with pytest.raises(RequestRefusedError, match="several inputs: x, words"):
        input_spec(SIGNATURE)


def test_a_picture_of_floating_point_pixels_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(ImageError, match="which number is white"):
        load_image(tmp_path / "x.tiff")
