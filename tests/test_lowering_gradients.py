"""Gradients of lowered functions against PyTorch's in double precision."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="what is lowered are PyTorch's functions")

from lowered import assert_same, lowered, normal, run  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from edge_export.policies.base import take_rows  # noqa: E402

X, SCALE, SHIFT = normal(2, 3, 4), normal(4, seed=3), normal(4, seed=4)


def weighted(function, *inputs):
    """The gradient of a weighted sum of a function's values with respect to every input."""

    def gradients(*tensors):
        def total(given):
            value = function(*given)
            return (value * torch.linspace(-1, 2, value.numel()).reshape(value.shape)).sum()

        return torch.func.grad(total)(tensors)

    def autograd(*tensors):
        doubles = [tensor.double().requires_grad_() for tensor in tensors]
        value = function(*doubles)
        factors = torch.linspace(-1, 2, value.numel()).reshape(value.shape)
        return [
            gradient.to(torch.float32)
            for gradient in torch.autograd.grad((value * factors).sum(), doubles)
        ]

    return run(lowered(gradients, *inputs), *inputs), autograd(*inputs)


TAILS = torch.cat([torch.linspace(-12, 12, 49), torch.tensor([-0.0, 1e-20, -1e-4])])


def layer_norm(x, scale, shift):
    return F.layer_norm(x, x.shape[-1:], scale, shift)


GRADIENTS = {
    "layer norm": (layer_norm, normal(2, 3, 4), SCALE, SHIFT),
    "layer norm, shifted": (layer_norm, 5 + normal(5, 4), SCALE, SHIFT),
    "gelu": (F.gelu, normal(3, 4) * 3),
    "gelu, tails": (F.gelu, TAILS),
    "softmax": (lambda x: x.softmax(-1), normal(2, 3, 5) * 4),
    "softmax, middle axis": (lambda x: x.softmax(1), normal(2, 3, 5) * 4),
    "log softmax": (lambda x: x.log_softmax(-1), normal(4, 5) * 30),
    "logsumexp": (lambda x: x.logsumexp(1), normal(4, 5) * 30),
    "logsumexp, kept": (lambda x: x.logsumexp(0, keepdim=True), normal(4, 5)),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=-1), normal(3, 4)),
    "normalize": (lambda x: F.normalize(x, dim=1), normal(3, 4)),
    "relu": (F.relu, normal(3, 4)),
    "mean": (lambda x: x.mean(dim=(0, 2)), X),
    "slices": (lambda x: x[1:, :-1] * x[:-1, -3:], normal(3, 4)),
    "select": (lambda x: x[:, 0] * x[:, -1], normal(3, 4)),
    "split": (lambda x: (lambda a, b, c: a * b - c)(*x.chunk(3, dim=1)), normal(2, 6)),
    "expand and cat": (
        lambda x, y: torch.cat([x.expand(3, -1, -1), y], 1),
        normal(1, 2, 4),
        normal(3, 2, 4),
    ),
    "linear": (lambda b, x, w: torch.addmm(b, x, w), normal(4), normal(3, 5), normal(5, 4)),
    "attention": (
        lambda q, k, v: ((q @ k.transpose(1, 2)) * 0.5).softmax(-1) @ v,
        normal(2, 3, 4),
        normal(2, 3, 4, seed=1),
        normal(2, 3, 4, seed=2),
    ),
}


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_a_gradient_is_pytorchs_in_double_precision(case):
    function, *inputs = case
    actual, wanted = weighted(function, *inputs)
    # Single precision against double: cancelled sums lose three or four digits.
    assert_same(actual, wanted, relative=2e-4, absolute=2e-5)


def test_the_gradient_of_a_norm_of_zero_is_zero():
    rows = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]])
    function = torch.func.grad(lambda x: torch.linalg.vector_norm(x, dim=1).sum())
    (actual,) = run(lowered(function, rows), rows)
    np.testing.assert_allclose(actual, [[0, 0, 0], [0.6, 0, 0.8]], rtol=1e-6)


def take_rows_slowly(x, index, grad):
    """Rows and the gradient of x, one row at a time."""
    rows, grad_x = np.zeros_like(grad), np.zeros_like(x)
    for s, k in np.ndindex(*index.shape):
        rows[s, k] = x[s, index[s, k]]
        grad_x[s, index[s, k]] += grad[s, k]
    return rows, grad_x


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_taking_rows_is_a_gather_and_its_gradient_a_scatter(kept):
    x, grad = normal(4, 5, 3), normal(4, kept, 3, seed=1)
    index = normal(4, 5, seed=2).argsort(dim=1)[:, :kept]

    def both(x, index, grad):
        rows, pull = torch.func.vjp(lambda given: take_rows(given, index), x)
        return rows, pull(grad)[0]

    actual = run(lowered(both, x, index, grad), x, index, grad)
    wanted = take_rows_slowly(x.numpy(), index.numpy(), grad.numpy())
    for value, want in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(value, want)
