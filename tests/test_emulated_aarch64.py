"""What `make test-aarch64` and `make test-containers` compute, without their roots."""

from pathlib import Path

import numpy as np
import pytest

from device_tests.aarch64.comparison import losses, weight_differences, wheel_tags
from device_tests.debian import read_pip_settings

WIDTH = 4


def state(**changes):
    """Parameters and a moment, as in a state file."""
    joint = np.zeros(3 * WIDTH, np.float32)
    return {
        "param.encoder.blocks.0.attn.qkv.bias": joint,
        "param.encoder.norm.weight": np.ones(WIDTH, np.float32),
        "exp_avg.encoder.norm.weight": np.zeros(WIDTH, np.float32),
        **changes,
    }


def joint_bias(place):
    """A change of one element of the joint bias of queries, keys and values."""
    changed = np.zeros(3 * WIDTH, np.float32)
    changed[place] = -0.5
    return state(**{"param.encoder.blocks.0.attn.qkv.bias": changed})


@pytest.mark.parametrize("place", [0, WIDTH - 1, 2 * WIDTH, 3 * WIDTH - 1])
def test_biases_of_queries_and_values_count_as_weights(place):
    found = weight_differences(state(), joint_bias(place))
    assert found["largest_difference"] == 0.5
    assert found["largest_difference_in"] == "param.encoder.blocks.0.attn.qkv.bias"
    assert found["largest_difference_of_keys_biases"] == 0.0


@pytest.mark.parametrize("place", [WIDTH, 2 * WIDTH - 1])
def test_biases_of_keys_stay_apart(place):
    found = weight_differences(joint_bias(place), state())
    assert found["largest_difference"] == 0.0
    assert found["largest_difference_of_keys_biases"] == 0.5


def test_parameters_alone_are_compared():
    moment = {"exp_avg.encoder.norm.weight": np.ones(WIDTH, np.float32)}
    found = weight_differences(state(), state(**moment))
    assert (found["parameters"], found["largest_difference"]) == (2, 0.0)


def test_weights_that_are_not_finite_are_not_equal():
    lost = {"param.encoder.norm.weight": np.full(WIDTH, np.nan, np.float32)}
    with pytest.raises(AssertionError):
        weight_differences(state(**lost), state(**lost))


def test_losses_are_those_of_the_records(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2}\n')
    assert losses(tmp_path) == [2.5, 2]


def test_a_wheel_is_named_with_its_tags(tmp_path):
    folder = tmp_path / "NumPy-2.5.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: NumPy\nVersion: 2.5.5\n")
    (folder / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp313-a\nTag: cp313-b\n")
    assert wheel_tags(tmp_path) == {"numpy": "2.5.5 cp313-a cp313-b"}


def test_a_root_gets_the_indexes_of_this_machine(tmp_path):
    folder = Path(*tmp_path.parts[:3])  # an index may link to files beside it
    said = (
        ":env:.cert='/other.crt'\n"
        f":env:.find-links='{tmp_path}'\n"
        f"global.extra-index-url='https://one.example file://{tmp_path}/absent'\n"
        "global.timeout='180'\n"
    )
    settings = read_pip_settings(said, certificates="/our.crt")
    assert settings.text.splitlines() == [
        "[global]",
        f"find-links = {tmp_path}",
        f"extra-index-url = https://one.example file://{tmp_path}/absent",
        "cert = /our.crt",
    ]
    assert settings.folders == (folder,)


def test_without_settings_pip_keeps_its_own():
    settings = read_pip_settings("", certificates=None)
    assert (settings.text, settings.folders) == ("[global]\n", ())
