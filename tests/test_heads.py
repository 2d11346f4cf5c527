"""Projectors and predictors against their definition; what batch norm does and forbids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="heads are torch functions")

from losses import (  # noqa: E402
    HIDDEN,
    MODEL,
    OUT,
    WIDTH,
    columns_normalised,
    head_slowly,
    objective_loss,
    random_values,
    view_features,
)

from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.objectives.heads import Head, HeadOptions, batch_norm  # noqa: E402
from edge_export.ort_training import artifacts as ort_training  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402

CLOSE = {"rtol": 1e-11, "atol": 1e-11}
NORMS = ["layer", "batch"]
METHODS = [name for name, kind in OBJECTIVES.items() if issubclass(kind.options, HeadOptions)]


def bound(method, norm):
    kind = OBJECTIVES[method]
    options = kind.options(projector_width=HIDDEN, projector_out=OUT, head_norm=norm)
    return kind(MODEL, options)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_head_is_its_definition(layers, output_norm, norm):
    widths = (WIDTH, HIDDEN, HIDDEN, OUT)[: layers + 1]
    head = Head(name="head", widths=widths, norm=norm, output_norm=output_norm)
    weights = random_values(head.parameters, seed=1)
    views = view_features(7)
    last = output_norm and norm == "batch"
    wanted = [
        head_slowly(weights, "head", layers, rows, norm=norm, output_norm=last)
        for rows in views.tolist()
    ]
    np.testing.assert_allclose(head(weights, views), wanted, **CLOSE)


def biases(**changes):
    head = Head(name="head", widths=(5, 4, 3), **changes)
    return {p.name for p in head.parameters if p.name.endswith(("0.bias", "1.bias"))}


def test_a_layer_has_a_bias_unless_batch_norm_follows():
    assert biases() == biases(output_norm=True) == {"head.0.bias", "head.1.bias"}
    assert biases(output_bias=False) == {"head.0.bias"}
    assert biases(norm="batch") == {"head.1.bias"}
    assert biases(norm="batch", output_bias=False) == set()
    assert biases(norm="batch", output_norm=True) == set()


def test_batch_norm_is_pytorchs():
    rows = view_features(3)
    module = torch.nn.BatchNorm1d(WIDTH, affine=False, track_running_stats=False).double()
    for view, normal in zip(rows, batch_norm(rows), strict=True):
        np.testing.assert_allclose(normal, module(view), **CLOSE)
        np.testing.assert_allclose(normal, columns_normalised(view.tolist()), **CLOSE)


@given(st.integers(2, 9), st.floats(-100, 100), st.floats(1, 100), st.integers(0, 10_000))
@settings(deadline=None)
def test_batch_norm_does_not_depend_on_place_and_scale(count, shift, scale, seed):
    """Up to eps, against which the variance is large."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    rows[0], rows[1] = 10 + rows[0].abs(), -10 - rows[1].abs()
    np.testing.assert_allclose(batch_norm(rows * scale + shift), batch_norm(rows), atol=1e-5)


def test_equal_pictures_are_normalised_to_zero():
    rows = torch.full((4, 3), 2.0)
    assert torch.equal(batch_norm(rows), torch.zeros(4, 3))


def test_an_unknown_norm_is_refused():
    with pytest.raises(
        ConfigError, match=r"head_norm: unknown 'group'; known are layer, batch"
    ):
        HeadOptions(head_norm="group")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
def test_what_batch_norm_cancels_is_declared(method, norm):
    """A shift of all features: the gradient of the encoder's last bias is its sum."""
    objective = bound(method, norm)
    weights = random_values(objective.declaration.parameters, seed=1)
    features, taught = view_features(2), view_features(3)

    def loss(shift):
        return objective_loss(objective, weights, weights, features + shift, taught)

    gradient = torch.func.grad(loss)(torch.zeros(WIDTH, dtype=torch.float64))
    largest = torch.func.grad(loss)(torch.zeros_like(features)).abs().max()
    declared = objective.declaration.zero_gradient
    assert declared == (("encoder.norm.bias",) if norm == "batch" else ())
    assert (gradient.abs().max() < 1e-12 * largest) == bool(declared)


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_a_head_has_a_gradient(method):
    for norm in NORMS:
        objective = bound(method, norm)
        weights = random_values(objective.declaration.parameters, seed=1)
        features, taught = view_features(2), view_features(3)
        gradients = torch.func.grad(
            lambda values: objective_loss(objective, values, weights, features, taught)  # noqa: B023
        )(weights)
        assert all(value.abs().max() > 1e-9 for value in gradients.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_package_with_batch_norm_is_verified(method, tmp_path, monkeypatch):
    """Loss, gradients and new state on engine `ort` are PyTorch's."""
    monkeypatch.setattr(ort_training, "is_available", lambda: False)
    table = {
        "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1},
        "method": {"name": method, "projector_width": 16, "head_norm": "batch"},
        "tokens": {"name": "none"},
        "batch_size": 4,
    }
    package = export_package(
        make_recipe(table, where="test"), tmp_path / "p", init=None, report=lambda *_: None
    )
    assert package.manifest.method == method
