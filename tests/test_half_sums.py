"""Gradients of weights in float16: sums over rows in parts, which are added in float32."""

import pytest

pytest.importorskip("torch", reason="the export side is installed with PyTorch")

import onnx
from lowered import assert_same, lowered, normal, run

from edge_export.lowering.reductions import LONGEST_HALF_SUM
from edge_export.package.widened import widen


def gradient(x, g):
    """Of a linear layer's weight, from its input and its output's gradient."""
    return (x.half().t() @ g.half()).float()


def summed_in_half(model):
    """How many products each MatMul adds up in float16."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output)}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert {types[n.output[0]].elem_type for n in products} == {onnx.TensorProto.FLOAT16}
    return [types[node.input[0]].shape.dim[-1].dim_value for node in products]


@pytest.mark.parametrize(
    ("rows", "summed"),
    [
        (64, [64]),
        (512, [512]),
        (513, [171]),
        (2062, [412, 2]),  # twice a prime number
        (2080, [416]),
        (2112, [352]),
        (6304, [394]),
        (8320, [416]),
        (18464, [499, 1]),  # 577 tokens
    ],
)
def test_long_sums_are_cut_and_right(rows, summed):
    inputs = normal(rows, 12), normal(rows, 20, seed=1)
    model = lowered(gradient, *inputs)
    assert summed_in_half(model) == summed
    assert max(summed) <= LONGEST_HALF_SUM
    widen(model)  # processors' float16 differs between versions: all but the rounding
    wanted = inputs[0].t() @ inputs[1]
    assert_same(run(model, *inputs), wanted, absolute=1e-4)  # of thousands of terms


def test_sums_of_float32_stay_whole():
    def exact(x, g):
        return x.t() @ g

    inputs = normal(2080, 12), normal(2080, 20, seed=1)
    model = lowered(exact, *inputs)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "MatMul"]
    assert_same(run(model, *inputs), exact(*inputs), absolute=1e-4)


def test_products_of_activations_stay_whole():
    """Their sums are as long as a layer is wide, and cutting them would copy them."""

    def forward(x, weight):
        return (x.half() @ weight.half()).float()

    model = lowered(forward, normal(2080, 768), normal(768, 24, seed=1))
    assert [node.op_type for node in model.graph.node] == ["Cast", "Cast", "MatMul", "Cast"]
