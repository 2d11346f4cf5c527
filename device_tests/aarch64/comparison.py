"""What was installed from which wheels, and how far two machines' results are apart."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_tests.facts import Facts

_PARAMETERS = "param."
_JOINT_BIAS = "attn.qkv.bias"  # of queries, keys and values, one after the other

Arrays = Mapping[str, NDArray[Any]]


def wheel_tags(site_packages: Path) -> dict[str, str]:
    """The version and the tag of every installed wheel, such as `2.5.5 cp313-cp313-...`."""
    found = {}
    for each in distributions(path=[str(site_packages)]):
        wheel = (each.read_text("WHEEL") or "").splitlines()
        tags = [line.partition(": ")[2] for line in wheel if line.startswith("Tag: ")]
        found[each.metadata["Name"].lower()] = " ".join([each.version, *tags])
    return dict(sorted(found.items()))


def weight_differences(first: Arrays, second: Arrays) -> Facts:
    """The largest differences between the parameters of two states.

    Biases of keys stay apart: attention does not depend on them, so that their gradient is
    rounding alone, which AdamW makes a step of the size of the learning rate.

    Raises:
        AssertionError: they are not states of the same parameters, or one is not finite.
    """
    assert first.keys() == second.keys()
    weights = dict(_differences(first, second, keys=False))
    keys = dict(_differences(first, second, keys=True))
    assert weights
    assert np.isfinite([*weights.values(), *keys.values()]).all()
    name = max(weights, key=lambda name: weights[name])
    return {
        "parameters": len(weights),
        "largest_difference": weights[name],
        "largest_difference_in": name,
        "largest_difference_of_keys_biases": max(keys.values(), default=None),
    }


def _differences(first: Arrays, second: Arrays, *, keys: bool) -> Iterator[tuple[str, float]]:
    for name in first:
        if not name.startswith(_PARAMETERS):
            continue
        difference = np.abs(first[name].astype(np.float64) - second[name])
        if name.endswith(_JOINT_BIAS):
            query, key, value = np.split(difference, 3)
            difference = key if keys else np.concatenate([query, value])
        elif keys:
            continue
        yield name, float(difference.max())


def losses(run: Path) -> list[float]:
    """The loss of every step of a run folder."""
    lines = (run / "steps.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]
