"""Conversion of encoder weights from and to timm's layouts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import ENCODER, make_package, make_state

from edge_runtime.engines import encoder_weights
from edge_runtime.package.encoder import from_timm, to_timm
from edge_runtime.package.manifest import EncoderTensor

SIZES = st.integers(1, 5)


def encoder_tensor(layout):
    return EncoderTensor(name="inside", timm_name="outside", layout=layout)


@given(side=SIZES, width=SIZES, seed=st.integers(0, 100))
def test_layouts_come_back_unchanged(side, width, seed):
    rng = np.random.default_rng(seed)
    shapes = {
        "patch": (side * side * 3, width),
        "transposed": (side, width),
        "same": (1, side),
    }
    for layout, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        tensors = [encoder_tensor(layout)]
        outside = to_timm(tensors, {"inside": value})
        inside = from_timm(tensors, outside)["inside"]
        assert (inside == value).all()
        assert inside.shape == shape
        again = to_timm(tensors, {"inside": inside})["outside"]
        assert again.tobytes() == outside["outside"].tobytes()


@given(side=SIZES, width=SIZES)
def test_a_patch_is_rows_of_columns_of_channels(side, width):
    state = np.arange(side * side * 3 * width).reshape(side * side * 3, width)
    timm = to_timm([encoder_tensor("patch")], {"inside": state})["outside"]
    assert timm.shape == (width, 3, side, side)
    for out, channel, row, column in np.ndindex(timm.shape):
        assert (
            timm[out, channel, row, column] == state[(row * side + column) * 3 + channel, out]
        )


def test_a_patch_projection_is_timms_convolution():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    state = rng.normal(size=(4 * 4 * 3, 7)).astype(np.float32)
    pictures = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    patches = pictures.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 48)

    kernel = to_timm([encoder_tensor("patch")], {"inside": state})["outside"]
    channels_first = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    convolved = torch.nn.functional.conv2d(channels_first, torch.from_numpy(kernel), stride=4)
    # float32 on both sides, 48 products added in another order
    np.testing.assert_allclose(patches @ state, convolved.flatten(2).mT, atol=1e-4)


def test_a_matrix_is_transposed_and_not_copied():
    value = np.arange(6.0).reshape(2, 3)
    timm = to_timm([encoder_tensor("transposed")], {"inside": value})["outside"]
    assert timm.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert np.shares_memory(timm, value)


def test_tensors_of_a_classifier_are_left_out():
    weights = {tensor.name: np.zeros((48, 2)) for tensor in ENCODER}
    checkpoint = to_timm(ENCODER, weights) | {"head.weight": np.zeros(3)}
    assert from_timm(ENCODER, checkpoint).keys() == weights.keys()


@pytest.mark.parametrize("prefix", ["param.", "ema."])
def test_weights_are_those_of_the_evaluated_encoder(tmp_path, prefix):
    package = make_package(tmp_path / "package", encoder_prefix=prefix)
    state = make_state(1)
    weights = encoder_weights(package, state)
    assert list(weights) == ["patch.weight", "patch.bias", "fc.weight"]
    assert all(weights[name] is state[prefix + name] for name in weights)
