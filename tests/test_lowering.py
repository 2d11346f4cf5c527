"""Every ATen lowering against PyTorch itself, through ONNX Runtime."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="what is lowered are PyTorch's functions")

import onnx  # noqa: E402
from lowered import assert_same, lowered, normal, run  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils import _pytree as pytree  # noqa: E402

from edge_export.lowering.selection import RANKED  # noqa: E402
from edge_export.lowering.shapes import RESHAPES  # noqa: E402
from edge_export.lowering.table import TABLE, lowers  # noqa: E402
from edge_export.lowering.trace import lower  # noqa: E402 - enters all into the table

aten = torch.ops.aten

X, Y, COLUMN = normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(3, 1, seed=2)
POSITIVE, WHOLE = X.abs() + 0.5, torch.arange(24).reshape(2, 3, 4) % 5
SOME = X > 0
SCALE, SHIFT = normal(4, seed=3), normal(4, seed=4)
NORMAL, MEAN, DEVIATION = torch.native_layer_norm(X, [4], SCALE, SHIFT, 1e-6)
LARGEST = 2**63 - 1  # how PyTorch writes an open end

CASES = [  # operator, arguments, options
    (aten.clone.default, (X,), {"memory_format": torch.contiguous_format}),
    (aten.detach.default, (X,), {}),
    (aten.lift_fresh_copy.default, (X,), {}),
    (aten.alias.default, (X,), {}),
    (aten.view.default, (X, [6, 4]), {}),
    (aten.view.default, (X, [2, -1]), {}),
    (aten._unsafe_view.default, (X, [3, 8]), {}),
    (aten.unsqueeze.default, (X, -1), {}),
    (aten.squeeze.dim, (COLUMN, -1), {}),
    (aten.squeeze.dims, (COLUMN[None], [0, 2]), {}),
    (aten.transpose.int, (X, 0, -1), {}),
    (aten.t.default, (X[0],), {}),
    (aten.permute.default, (X, [2, 0, -2]), {}),
    (aten.expand.default, (COLUMN, [2, -1, 5]), {}),
    (aten.expand.default, (X, [2, 3, 4]), {}),
    (aten.cat.default, ([X, Y, X],), {}),
    (aten.cat.default, ([X, Y[:, :, :1]], -1), {}),
    (aten.split.Tensor, (X, 2, 1), {}),
    (aten.split.Tensor, (X, 2, -1), {}),
    (aten.slice.Tensor, (X, 1, 1, LARGEST), {}),
    (aten.slice.Tensor, (X, 2, -3, -1), {}),
    (aten.slice.Tensor, (X, -1, 0, LARGEST, 2), {}),
    (aten.slice.Tensor, (X, 2, 1, 100, 3), {}),
    (aten.slice.Tensor, (X, 1, -100, 2), {}),
    (aten.slice.Tensor, (X, 1, 0, 3), {}),
    (aten.select.int, (X, 1, 2), {}),
    (aten.select.int, (X, -1, -3), {}),
    (aten.slice_backward.default, (X[:, 1:], [2, 3, 4], 1, 1, LARGEST, 1), {}),
    (aten.slice_backward.default, (X[:, :, :2], [2, 3, 4], 2, -4, -2, 1), {}),
    (aten.slice_backward.default, (X, [2, 3, 4], 0, 0, LARGEST, 1), {}),
    (aten.select_backward.default, (X[:, 0], [2, 3, 4], 1, -1), {}),
    (aten.select_backward.default, (X[0], [2, 3, 4], 0, 0), {}),
    (aten.add.Tensor, (X, COLUMN), {}),
    (aten.add.Tensor, (X, 2.5), {}),
    (aten.add.Tensor, (WHOLE, 2), {}),
    (aten.sub.Tensor, (COLUMN, X), {}),
    (aten.mul.Tensor, (X, Y), {}),
    (aten.mul.Scalar, (X, -3.0), {}),
    (aten.div.Tensor, (X, POSITIVE), {}),
    (aten.div.Scalar, (X, 3.0), {}),
    (aten.pow.Tensor_Tensor, (POSITIVE, Y), {}),
    (aten.pow.Scalar, (0.9, POSITIVE), {}),
    (aten.maximum.default, (X, Y), {}),
    (aten.neg.default, (X,), {}),
    (aten.sqrt.default, (POSITIVE,), {}),
    (aten.exp.default, (X,), {}),
    (aten.log.default, (POSITIVE,), {}),
    (aten.relu.default, (X,), {}),
    (aten.reciprocal.default, (POSITIVE,), {}),
    (aten.round.default, (torch.tensor([-1.5, -0.5, 0.49, 0.5, 1.5, 2.5]),), {}),
    (aten.abs.default, (X,), {}),
    (aten.bitwise_not.default, (SOME,), {}),
    (aten.logical_not.default, (SOME,), {}),
    (aten.rsub.Scalar, (X, 2.0), {}),
    (aten.clamp_min.default, (X, 0.25), {}),
    (aten.eq.Tensor, (WHOLE, WHOLE.flip(0)), {}),
    (aten.eq.Scalar, (WHOLE, 3), {}),
    (aten.ge.Scalar, (WHOLE, 3), {}),
    (aten.ge.Tensor, (WHOLE, WHOLE[:, :1]), {}),
    (aten.gt.Scalar, (WHOLE, 3), {}),
    (aten.lt.Tensor, (WHOLE, WHOLE[:, :1]), {}),
    (aten.le.Scalar, (WHOLE, 3), {}),
    (aten.where.self, (SOME[0], X, COLUMN), {}),
    (aten.masked_fill.Scalar, (X, SOME[0], -7.0), {}),
    (aten.ones_like.default, (X,), {}),
    (aten._to_copy.default, (X * 3,), {"dtype": torch.int64}),
    (aten._to_copy.default, (WHOLE.to(torch.uint8),), {"dtype": torch.float32}),
    (aten._to_copy.default, (SOME,), {"dtype": torch.float32}),
    (aten._to_copy.default, (X,), {}),
    (aten.sum.dim_IntList, (X, [0, -1]), {}),
    (aten.sum.dim_IntList, (X, [1], True), {}),
    (aten.sum.dim_IntList, (X, []), {}),
    (aten.sum.default, (X,), {}),
    (aten.mean.default, (X,), {}),
    (aten.mean.dim, (X, [-1, 0], True), {}),
    (aten.amax.default, (X, [-1]), {}),
    (aten.amax.default, (X,), {}),
    (aten.linalg_vector_norm.default, (X, 2, [-1], True), {}),
    (aten.linalg_vector_norm.default, (X,), {}),
    (aten.logsumexp.default, (X * 1000, [1]), {}),
    (aten.logsumexp.default, (X - 1000, [-1], True), {}),
    (aten.mm.default, (X[0], Y[1].t()), {}),
    (aten.bmm.default, (X, Y.transpose(1, 2)), {}),
    (aten.addmm.default, (SCALE, X[0], normal(4, 4)), {}),
    (aten.index_select.default, (X, 1, torch.tensor([2, 0, 0])), {}),
    (aten.gather.default, (X, -1, WHOLE[:, :, :2] % 4), {}),
    (aten.scatter.src, (X, 1, torch.tensor([[[2, 0, 1, 1]], [[0, 1, 2, 0]]]), Y[:, :1]), {}),
    (aten.topk.default, (X, 2), {}),
    (aten.topk.default, (X, 2, 1, False), {}),
    (aten.sort.stable, (X,), {"stable": True, "dim": 1, "descending": False}),
    (aten.sort.stable, (X,), {"stable": True, "descending": True}),
    (aten.argmax.default, (X, -1), {}),
    (aten.argmax.default, (X, 0, True), {}),
    (aten.native_layer_norm.default, (X, [4], SCALE, SHIFT, 1e-6), {}),
    (
        aten.native_layer_norm_backward.default,
        (Y, X, [4], MEAN, DEVIATION, SCALE, SHIFT, [True] * 3),
        {},
    ),
    (aten.gelu.default, (X * 4,), {}),
    (aten.gelu_backward.default, (Y, X * 4), {}),
    (aten._softmax.default, (X * 50, -1, False), {}),
    (aten._softmax_backward_data.default, (Y, X.softmax(1), 1, torch.float32), {}),
    (aten._log_softmax.default, (X * 50, 1, False), {}),
    (aten._log_softmax_backward_data.default, (Y, X.log_softmax(-1), -1, torch.float32), {}),
    (aten.threshold_backward.default, (Y, X.relu(), 0), {}),
    (aten.minimum.default, (X, Y), {}),
    (aten.bitwise_and.Tensor, (SOME, Y > 0), {}),
    (aten.bitwise_or.Tensor, (SOME, Y > 0), {}),
    (aten.logical_and.default, (SOME, Y > 0), {}),
    (aten.logical_or.default, (SOME, Y > 0), {}),
    (aten.sign.default, (torch.cat([X, 0 * X]),), {}),
    (aten.sin.default, (X,), {}),
    (aten.cos.default, (X,), {}),
    (aten.floor.default, (X * 5,), {}),
    (aten.ceil.default, (X * 5,), {}),
    (aten.sigmoid.default, (X * 5,), {}),
    (aten.tanh.default, (X,), {}),
    (aten.erf.default, (X,), {}),
    (aten.pow.Tensor_Scalar, (X, 1), {}),
    (aten.pow.Tensor_Scalar, (X, 2), {}),
    (aten.pow.Tensor_Scalar, (X, 3), {}),
    (aten.pow.Tensor_Scalar, (POSITIVE, 0.5), {}),
    (aten.pow.Tensor_Scalar, (POSITIVE, -1.5), {}),
    (aten.rsqrt.default, (POSITIVE,), {}),
    (aten.clamp.default, (X, -0.5), {}),
    (aten.clamp.default, (X, None, 0.5), {}),
    (aten.clamp.default, (X, -0.5, 0.5), {}),
    (aten.gt.Tensor, (WHOLE, WHOLE.flip(0)), {}),
    (aten.le.Tensor, (WHOLE, WHOLE.flip(0)), {}),
    (aten.lt.Scalar, (WHOLE, 3), {}),
    (aten.ne.Scalar, (WHOLE, 3), {}),
    (aten.ne.Tensor, (WHOLE, WHOLE.flip(0)), {}),
    (aten.zeros_like.default, (X,), {}),
    (aten.full_like.default, (X, 2.5), {}),
    (aten.amin.default, (X, [-1]), {}),
    (aten.amin.default, (X,), {}),
    (aten.cumsum.default, (X, -2), {}),
    (aten.scatter_add.default, (X, 1, WHOLE[:, :2] % 3, Y[:, :2]), {}),
    (aten.sort.default, (X, 1), {}),
    (aten.sort.default, (X, -1, True), {}),
]


@pytest.mark.parametrize(
    ("operator", "arguments", "options"),
    [pytest.param(*case, id=f"{i}-{case[0]}") for i, case in enumerate(CASES)],
)
def test_an_operator_is_pytorchs(operator, arguments, options):
    leaves, tree = pytree.tree_flatten(arguments)
    inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def function(*tensors):
        given = iter(tensors)
        filled = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return operator(*pytree.tree_unflatten(filled, tree), **options)

    assert_same(run(lowered(function, *inputs), *inputs), function(*inputs))


def test_every_operator_of_the_table_has_a_case():
    in_place = {
        aten.masked_fill_.Scalar
    }  # in the gradient of a norm: test_lowering_gradients.py
    assert {case[0] for case in CASES} | in_place == TABLE.keys() | RESHAPES


TIES = torch.tensor([[2.0, 1.0, 2.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("descending", [False, True])
def test_equal_values_are_sorted_by_index(descending):
    model = lowered(lambda x: x.sort(dim=1, stable=True, descending=descending), TIES)
    values, order = run(model, TIES)
    first = [0, 2, 4, 1, 3, 5] if descending else [1, 3, 5, 0, 2, 4]
    assert order.tolist() == [first, [0, 1, 2, 3, 4, 5]]
    assert values.tolist()[0] == sorted(TIES[0].tolist(), reverse=descending)


def test_the_first_of_equal_maxima_is_chosen():
    (result,) = run(lowered(lambda x: x.argmax(dim=1), TIES), TIES)
    assert result.tolist() == [0, 0]


FREE = {
    "rows of all": lambda x, w: (x.reshape(-1, 4) @ w).reshape(x.shape[0], 3, 4),
    "expanded beside": lambda x, w: torch.cat(
        [w[None, :1].expand(x.shape[0], -1, -1), x], dim=1
    ),
    "tokens cut": lambda x, w: x[:, 1:] + x[:, -3:-1] + w[0],
    "one token": lambda x, w: x[:, -1],
    "all of the batch": lambda x, w: x[:],
    "moved to the end": lambda x, w: x.permute(1, 2, 0).mean(dim=(0, 1)),
    "softmax": lambda x, w: (x @ x.transpose(1, 2)).softmax(-1) @ x,
}


@pytest.mark.parametrize("function", FREE.values(), ids=FREE.keys())
def test_a_free_batch_takes_any_number(function):
    weight = normal(4, 4)
    model = lowered(function, normal(2, 3, 4), weight, free=["x0"])
    for count in (1, 2, 7):
        x = normal(count, 3, 4, seed=count)
        assert_same(run(model, x, weight), function(x, weight))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[0], "a cut along the free batch axis"),
        (lambda x: x[1:], "'x0': the function fixes its free size to 2"),
        (lambda x: x.new_ones(len(x), 1) + x, "'x0': the function fixes its free size to 2"),
    ],
)
def test_what_fixes_a_free_batch_is_refused(function, message):
    with pytest.raises(NotImplementedError, match=message):
        lowered(function, normal(2, 3), free=["x0"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: torch.cdist(x, x),
            r"no ONNX lowering for aten\._cdist_forward\.default; add one in .*/lowering",
        ),
        (lambda x: torch.add(x, x, alpha=2), "Add with alpha 2"),
        (lambda x: torch.linalg.vector_norm(x, 1), "vector norm of order 1"),
        (lambda x: x[2:2], "an empty slice"),
        (
            torch.func.grad(lambda x: (x * x)[::2].exp().sum()),
            "gradient of a slice with a step",
        ),
        (lambda x: x.to(torch.int64) * 0.5, r"aten\.mul\.Tensor gives .*float32.*int32"),
        (lambda x: x.to(torch.int64) / 2, r"aten\.div\.Tensor gives .*float32.*int32"),
        (lambda x: (x > 0).sum(), r"aten\.sum\.default gives .*int32.*bool"),
    ],
)
def test_an_operator_without_lowering_is_named(function, message):
    with pytest.raises(NotImplementedError, match=message):
        lowered(function, normal(3, 4))


def test_other_operators_are_left_to_pytorchs_decompositions():
    """`unbind`, `stack` and `silu` are in no table and need no lowering."""

    def function(x, y):
        first, second = x.unbind(0)
        return torch.stack([F.silu(first), second]) * y

    undone = {aten.unbind.int, aten.stack.default, aten.silu.default}
    assert undone.isdisjoint(TABLE.keys() | RESHAPES)
    assert_same(run(lowered(function, X, Y), X, Y), function(X, Y))


def test_a_lowering_of_another_shape_is_refused(monkeypatch):
    monkeypatch.setitem(
        TABLE, aten.relu.default, lambda g, x: g.reduce("ReduceSum", x, [0], True)
    )
    with pytest.raises(
        NotImplementedError, match=r"aten\.relu\.default gives .*\(3, 4\).*\(1, 4\)"
    ):
        lowered(F.relu, normal(3, 4))


def test_lowerings_are_registered_for_every_operator():
    first, second = object(), object()
    try:
        assert lowers(first, second)(len) is len
        assert TABLE[first] is TABLE[second] is len
    finally:
        TABLE.pop(first, None)
        TABLE.pop(second, None)


def test_what_is_known_while_tracing_becomes_a_constant():
    (result,) = run(lowered(lambda x: x + torch.arange(4).flip(0) * 2.0, X), X)
    np.testing.assert_array_equal(result, X.numpy() + np.float32([6, 4, 2, 0]))
    model = lowered(lambda x: x + torch.arange(4).flip(0) * 2.0, X)
    assert [node.op_type for node in model.graph.node] == ["Add"]


@pytest.mark.parametrize("size", [4, 255, 256, 300])
def test_an_identity_matrix_of_any_size_is_a_constant(size):
    """SimCLR has one with a row for each view: 256 with a batch of 128."""
    x = normal(size, 1)

    def masked(x):
        return (x @ x.t()).masked_fill(torch.eye(size, dtype=torch.bool), 0.0)

    assert_same(run(lowered(masked, x), x), masked(x))


def test_a_result_that_depends_on_no_input_is_an_output():
    assert_same(run(lowered(lambda x: (x, torch.ones(2)), X), X), (X, torch.ones(2)))


def test_inputs_keep_their_order_and_those_that_nothing_reads_are_left_out():
    def named(given):
        return {"sum": given["z"] + given["a"]}

    example = {"z": X, "unused": WHOLE, "a": Y}
    model = lower(named, example, name="test")
    assert [value.name for value in model.graph.input] == ["z", "a"]
    assert [value.name for value in model.graph.output] == ["sum"]
    assert model.graph.name == "test"


def test_parameters_are_stored_under_their_names():
    weight = normal(4, 2)
    model = lower(
        lambda given: {"y": given["x"] @ given["w"]},
        {"x": X[0], "w": weight},
        name="test",
        parameters={"w": weight},
    )
    assert [value.name for value in model.graph.input] == ["x"]
    (stored,) = model.graph.initializer
    assert stored.name == "w"
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), weight.numpy())


def test_the_same_function_gives_the_same_bytes():
    def function(x, scale, shift):
        return F.gelu(F.layer_norm(x, (4,), scale, shift)).softmax(-1), x.sort(
            dim=1, stable=True
        )[1]

    def content():
        return lowered(function, X, SCALE, SHIFT).SerializeToString(deterministic=True)

    first = content()
    lowered(lambda x: x.transpose(0, 1) + 5, Y)  # leaves no trace
    assert content() == first


def test_values_of_the_example_do_not_matter():
    function = torch.func.grad(lambda x: F.gelu(x).sum())
    models = [lowered(function, x).SerializeToString(deterministic=True) for x in (X, Y)]
    assert models[0] == models[1]


@pytest.mark.parametrize("size", [1, 2, 17, RANKED, RANKED + 1])
@pytest.mark.parametrize("descending", [False, True])
def test_a_sort_of_any_size_is_stable(size, descending):
    x = torch.randint(0, max(2, size // 3), (2, size), generator=torch.Generator()).float()
    model = lowered(lambda x: x.sort(dim=1, stable=True, descending=descending), x)
    assert_same(run(model, x), x.sort(dim=1, stable=True, descending=descending))
    assert ("TopK" in {node.op_type for node in model.graph.node}) == (size > RANKED)


def test_indices_of_a_diverged_step_stay_in_range():
    """The step then reports its loss, instead of an index out of bounds."""
    x = torch.tensor([[2.0, float("nan"), 1.0, float("nan")], [float("nan")] * 4])
    for function in (lambda x: x.sort(dim=1, stable=True)[1], lambda x: x.argmax(dim=1)):
        (index,) = run(lowered(function, x), x)
        assert index.min() >= 0
        assert index.max() < 4


def test_an_index_beyond_int32_is_refused():
    with pytest.raises(NotImplementedError, match="4294967296, which int32 cannot"):
        lowered(lambda x: x.to(torch.int64) + torch.tensor([2**32]), X)
