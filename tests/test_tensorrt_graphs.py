"""Every forward graph has only what TensorRT's ONNX parser documents, by its own table.

The table is of the parser's repository, data/tensorrt_operators.json names the version.
"""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export side is installed with PyTorch")

import onnx
from combinations import METHODS_ON_ALL_TOKENS
from declaring_parts import declaring_parts

from edge_export.lowering.graph import OPSET, GraphBuilder
from edge_export.package import graphs
from edge_export.parameters import initial_values
from edge_export.policies import POLICIES
from edge_export.recipe import make_recipe
from edge_export.step.program import Program
from edge_export.vit import encoder_parameters
from edge_runtime.selftest import PACKAGE

TABLE = json.loads((Path(__file__).parent / "data/tensorrt_operators.json").read_text())
SMALL = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2},
    "batch_size": 4,
}


def not_documented(model):
    """What the parser does not document: one line per node."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {
        value.name: type_name(value.type.tensor_type.elem_type)
        for value in chain(inferred.input, inferred.value_info, inferred.output)
    }
    types |= {each.name: type_name(each.data_type) for each in inferred.initializer}
    constants = {each.name for each in inferred.initializer}
    (opset,) = (each.version for each in model.opset_import if each.domain == "")
    problems = []
    if not TABLE["opset"]["first"] <= opset <= TABLE["opset"]["last"]:
        problems.append(f"opset {opset}")
    for node in inferred.node:
        problems += node_problems(node, types, constants)
    return problems


def node_problems(node, types, constants):
    op = node.op_type
    if node.domain or op not in TABLE["types"]:
        return [f"{op}: not in the table"]
    allowed = TABLE["types"][op].split()
    names = [name for name in (*node.input, *node.output) if name]
    problems = [f"{op}: {types[n]}" for n in names if types[n] not in allowed]
    if op in TABLE["first_output_only"] and len(node.output) > 1:
        problems.append(f"{op}: {len(node.output)} outputs")
    formals = onnx.defs.get_schema(op, OPSET).inputs
    for formal, name in zip(formals, node.input, strict=False):
        if formal.name in TABLE["constant_inputs"].get(op, ()) and name not in constants:
            problems.append(f"{op}: {formal.name} is no constant")
    return problems


def type_name(elem_type):
    names = {"float": "float32"}
    name = onnx.TensorProto.DataType.Name(elem_type).lower()
    return names.get(name, name)


def embed_graph(**table):
    program = Program(make_recipe({**SMALL, **table}, where="test"))
    return graphs.embed_graph(program, program.initial_state()).model


@pytest.mark.parametrize("method", METHODS_ON_ALL_TOKENS)
def test_the_embedding_graph_of_every_method_is_documented(method):
    model = embed_graph(method={"name": method}, tokens={"name": "none"}, keep_ratios=[1.0])
    assert not_documented(model) == []


def test_that_of_half_precision_is_documented():
    assert not_documented(embed_graph(precision="fp16")) == []


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "none"])
def test_the_embedding_graph_of_every_policy_is_documented(policy):
    assert not_documented(embed_graph(tokens={"name": policy}, keep_ratios=[0.5])) == []


def test_that_of_mae_is_documented():
    """It needs a keep-ratio below 1; its features are the mean of the patches."""
    model = embed_graph(method={"name": "mae"}, keep_ratios=[0.25], tokens={"name": "random"})
    assert not_documented(model) == []


def test_that_of_transformed_weights_is_documented():
    with declaring_parts():
        model = embed_graph(
            method={"name": "centred"}, parametrization={"name": "masked"}, trained=["all"]
        )
    assert not_documented(model) == []


@pytest.mark.parametrize(
    "teacher", [{}, {"patch_size": 8, "width": 24, "depth": 2, "heads": 3}]
)
def test_the_graph_of_a_frozen_encoder_is_documented(teacher):
    table = {
        **SMALL,
        "method": {"name": "distillation"},
        "keep_ratios": [0.5],
        "distillation": {"weight": 1.0, "teacher": {"name": "vit_tiny", **teacher}},
    }
    program = Program(make_recipe(table, where="test"))
    weights = initial_values(encoder_parameters(program.frozen), seed=0)
    assert not_documented(graphs.frozen_graph(program, weights, 4).model) == []


@pytest.mark.parametrize(
    "changes",
    [{}, {"tokens": {"name": "simprune"}}, {"trained": ["lora-2"]}],
)
def test_the_graph_of_a_teacher_before_the_step_is_documented(changes):
    method = {"name": "byol", "teacher_delay": 1}
    program = Program(make_recipe({**SMALL, "method": method, **changes}, where="test"))
    model = graphs.teacher_graph(program, program.initial_state(), 4).model
    assert not_documented(model) == []


def test_that_of_the_package_inside_edge_train_is_documented():
    model = onnx.load(PACKAGE / "graphs/embed.onnx")
    assert not_documented(model) == []


def one_node(op, dtype, outputs=1, *constants, opset=OPSET, **attributes):
    g = GraphBuilder("test", differentiated=True)
    values = [g.input("x", dtype, (2, 3)), *(g.constant(each) for each in constants)]
    made = g.add(op, values, [(dtype, (2, 3)), *[(dtype, (2, 1))] * (outputs - 1)], attributes)
    for number, value in enumerate(made):
        g.output(f"y{number}", value)
    model = g.model()
    model.opset_import[0].version = opset
    return model


SCALE = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (one_node("Sqrt", np.float64), "Sqrt: double"),
        (one_node("Identity", np.uint8), "Identity: uint8"),
        (
            one_node("LayerNormalization", np.float32, 2, SCALE),
            "LayerNormalization: 2 outputs",
        ),
        (one_node("Sqrt", np.float32, opset=22), "opset 22"),
        (one_node("Hardmax", np.float32), "Hardmax: not in the table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_documented_is_found(model, problem):
    assert problem in not_documented(model)


def test_axes_that_are_computed_are_found():
    g = GraphBuilder("test")
    x, axes = g.input("x", np.float32, (2, 3)), g.input("axes", np.int64, (1,))
    g.output("y", g.add("ReduceSum", [x, axes], [(np.float32, (1, 3))])[0])
    assert not_documented(g.model()) == ["ReduceSum: axes is no constant"]


def test_the_table_names_operators_and_inputs_of_onnx():
    for op in TABLE["types"]:
        schema = onnx.defs.get_schema(op, TABLE["opset"]["last"])
        inputs = {formal.name for formal in schema.inputs}
        assert set(TABLE["constant_inputs"].get(op, ())) <= inputs, op
    assert TABLE["constant_inputs"].keys() <= TABLE["types"].keys()
