"""Every node of a training graph has a CUDA kernel, by ONNX Runtime's table of opset 18."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export side is installed with PyTorch")

import onnx
from combinations import METHODS_AND_POLICIES, keep_ratios
from cuda_kernels import host_operands, kernels, without_kernel
from declaring_parts import declaring_parts
from paired_objective import paired_method

import edge_export
from edge_export.lowering.graph import OPSET, GraphBuilder
from edge_export.package import graphs
from edge_export.recipe import make_recipe
from edge_export.step.program import Program

PRECISIONS = ("fp32", "fp16")
SMALL = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 3, "width": 16, "heads": 1},
    "batch_size": 4,
}


def training_graphs(table):
    """Every graph of a recipe that runs while it trains, by kind and rung."""
    program = Program(make_recipe({**SMALL, **table}, where="test"))
    state, found = program.initial_state(), {}
    for update in program.declaration.periodic:
        found[update.name] = graphs.periodic_graph(program, update, state).model
    for settings in program.settings:
        rung = program.bind(settings)
        if settings.micro_batch is None:
            found[f"{settings.id} step"] = graphs.step_graph(rung, state).model
        else:
            accumulate = graphs.accumulate_graph(rung, state)
            found[f"{settings.id} accumulate"] = accumulate.model
            found[f"{settings.id} apply"] = graphs.apply_graph(rung, state, accumulate).model
    return found


def problems(table):
    """What CUDA cannot run, by graph."""
    found = {name: without_kernel(model) for name, model in training_graphs(table).items()}
    assert found
    return {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("method", "policy"), [*METHODS_AND_POLICIES, ("simclr", "random+simprune")]
)
def test_every_method_and_policy_runs_on_cuda(method, policy, precision):
    table = {
        "precision": precision,
        "method": {"name": method},
        "tokens": {"name": policy},
        "keep_ratios": keep_ratios(method, policy),
    }
    assert problems(table) == {}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batch_norm_in_heads_runs_on_cuda(precision):
    table = {
        "precision": precision,
        "method": {"name": "mocov3", "head_norm": "batch"},
        "tokens": {"name": "none"},
        "keep_ratios": [1.0],
    }
    assert problems(table) == {}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "tokens",
    [
        {"name": "evit", "fuse": True},
        {"name": "simprune", "paired": False},
        {"name": "ranked", "repair": 2},
    ],
)
def test_other_options_of_policies_run_on_cuda(tokens, precision):
    table = {"precision": precision, "tokens": tokens, "keep_ratios": [0.5]}
    assert problems(table) == {}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_micro_batches_run_on_cuda(precision):
    table = {
        "precision": precision,
        "method": {"name": "paired"},
        "tokens": {"name": "random"},
        "keep_ratios": [0.5],
        "micro_batches": [2],
    }
    with paired_method():
        assert problems(table) == {}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_counters_masks_and_periodic_graphs_run_on_cuda(precision):
    table = {
        "precision": precision,
        "method": {"name": "centred"},
        "parametrization": {"name": "masked"},
        "trained": ["all", "last-1"],
    }
    with declaring_parts():
        assert problems(table) == {}


def test_the_table_has_every_operator_of_the_lowering():
    """A new lowering brings its operator's row along, or lowers to others."""
    files = (Path(edge_export.__file__).parent / "lowering").glob("*.py")
    words = set(re.findall(r'"([A-Z]\w+)"', "".join(each.read_text() for each in files)))
    operators = {word for word in words if onnx.defs.has(word)}
    assert len(operators) > 50
    assert operators <= kernels().keys()


def test_the_table_names_type_variables_and_inputs_of_onnx():
    """A typing error in the data would allow everything."""
    for op, rows in kernels().items():
        schema = onnx.defs.get_schema(op, OPSET)
        inputs = {formal.name for formal in schema.inputs}
        variables = {formal.type_str for formal in (*schema.inputs, *schema.outputs)}
        for row in rows:
            assert row.types.keys() <= variables | inputs, op
        assert set(host_operands().get(op, ())) <= inputs, op
    assert host_operands().keys() <= kernels().keys()


def one_node(op, *inputs, out=None, opset=OPSET, **attributes):
    """A graph of one node on inputs; arrays are constants, dtypes are inputs of 2 x 3."""
    g = GraphBuilder("test")
    values = [
        g.constant(given) if isinstance(given, np.ndarray) else g.input(f"x{i}", given, (2, 3))
        for i, given in enumerate(inputs)
    ]
    g.output("y", g.add(op, values, [(out or values[0].dtype, ("a", "b"))], attributes)[0])
    model = g.model()
    model.opset_import[0].version = opset
    return model


PADS = np.array([0, 1, 0, 0])


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (one_node("Pad", np.int32, PADS), r"Pad: no kernel for data int32, pads int64, .*"),
        (
            one_node("ArgMax", np.int32, out=np.int64, axis=0),
            r"ArgMax: no kernel for data int32, reduced int64",
        ),
        (
            one_node("Where", np.bool_, np.bool_, np.bool_),
            r"Where: no kernel for condition bool, X bool, Y bool, output bool",
        ),
        (
            one_node("Add", np.float32, np.float32, opset=13),
            r"Add: no kernel of version 13",
        ),
        (
            one_node("Equal", np.int32, np.int32, out=np.bool_, opset=19),
            r"Equal: no kernel of version 19",
        ),
        (one_node("BitShift", np.uint8, np.uint8, direction="LEFT"), r".*BitShift: not in .*"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.graph.node[0].op_type,
)
def test_a_node_without_a_kernel_is_found(model, problem):
    (found,) = without_kernel(model)
    assert re.fullmatch(problem, found)


def test_nodes_with_a_kernel_are_not():
    for model in (
        one_node("Pad", np.float32, PADS),
        one_node("ArgMax", np.float16, out=np.int64, axis=0),
        one_node("Where", np.bool_, np.int32, np.int32, out=np.int32),
        one_node("Concat", np.int32, np.int32, np.int32, axis=0),
    ):
        assert without_kernel(model) == []


def test_the_last_input_of_a_variadic_operator_counts():
    g = GraphBuilder("test")
    parts = [g.input(f"x{i}", np.int8, (2, 3)) for i in range(3)]
    g.output("y", g.add("Max", parts, [(np.int8, (2, 3))])[0])
    assert without_kernel(g.model()) == [
        "Max: no kernel for data_0 int8, data_0 int8, data_0 int8, max int8"
    ]


def test_a_computed_shape_is_found():
    """The processor would wait for it in the middle of a step."""
    g = GraphBuilder("test")
    x, shape = g.input("x", np.float32, (6,)), g.input("shape", np.int64, (2,))
    g.output("y", g.add("Reshape", [x, shape], [(np.float32, ("a", "b"))])[0])
    assert without_kernel(g.model()) == [
        "Reshape: shape is read by the processor and is no constant"
    ]
