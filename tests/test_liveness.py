"""Memory of a graph's tensors against a definition that recomputes every moment."""

import json
import math

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="graphs are measured on the torch side")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from edge_export.analysis.liveness import (  # noqa: E402
    IN_PLACE,
    VIEWS,
    Life,
    arena_bytes,
    execution_order,
    lives,
    most_at_once,
    peak_bytes,
)
from edge_export.lowering.graph import IR_VERSION  # noqa: E402
from edge_export.package import graphs  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines.runtime import release_free_memory, session_options  # noqa: E402

RECIPE = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2},
    "method": {"name": "mocov3", "projector_width": 16, "projector_out": 8},
    "tokens": {"name": "simprune"},
    "keep_ratios": [0.5],
    "batch_size": 4,
}


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(made, full_check=True)
    return made


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, outputs[0], **attributes)


FLAT = helper.make_tensor("flat", TensorProto.INT64, [1], [-1])
DTYPES = ("float16", "float32", "int64")
OPS = ("Relu", "Softmax", "Add", "Transpose", "Reshape", "Split", "Greater")


@st.composite
def random_models(draw):
    """Graphs over one input: some results are read often, some never, some are outputs."""
    rows, columns = draw(st.integers(1, 3)) * 2, draw(st.integers(1, 4))
    shapes = {"x": (rows, columns)}
    nodes = []
    for number in range(draw(st.integers(1, 14))):
        op = draw(st.sampled_from(OPS))
        source = draw(st.sampled_from(sorted(shapes)))
        shape, name = shapes[source], f"t{number}"
        if op == "Softmax":
            nodes.append(node(op, [source], [name], axis=0))
        elif op == "Add":
            same = sorted(key for key in shapes if shapes[key] == shape)
            nodes.append(node(op, [source, draw(st.sampled_from(same))], [name]))
        elif op == "Reshape":
            nodes.append(node(op, [source, "flat"], [name]))
            shape = (math.prod(shape),)
        elif op == "Split" and shape[0] % 2 == 0:
            nodes.append(node(op, [source], [name, f"{name}b"], axis=0, num_outputs=2))
            shape = (shape[0] // 2, *shape[1:])
            shapes[f"{name}b"] = shape
        elif op == "Greater":  # bytes instead of floats, and back
            nodes.append(node("Greater", [source, source], [f"{name}g"]))
            nodes.append(node("Cast", [f"{name}g"], [name], to=TensorProto.FLOAT))
        elif op == "Transpose":
            nodes.append(node(op, [source], [name]))
            shape = shape[::-1]
        else:
            nodes.append(node("Relu", [source], [name]))
        shapes[name] = shape
    made = [name for name in shapes if name != "x"]
    last = made[-1]
    outputs = draw(st.sets(st.sampled_from(made), max_size=3)) | {last}
    return model_of(
        nodes,
        [info("x", shapes["x"])],
        [info(name, shapes[name]) for name in sorted(outputs)],
        [FLAT],
    )


def pieces_slowly(nodes, outside, shape_of, bytes_of):
    """Which piece of memory each tensor is in; `nodes` in the order in which they run."""
    piece = {}
    for position, n in enumerate(nodes):
        for name in n.output:
            piece[name] = name
            if name in outside:
                continue
            if n.op_type in VIEWS:
                piece[name] = piece.get(n.input[0], n.input[0])
                continue
            if n.op_type in IN_PLACE:
                (other,) = n.input
                mine = piece.get(other, other)
                sharing = {t for t, p in piece.items() if p == mine and t != name} | {mine}
                read_later = any(sharing & set(later.input) for later in nodes[position + 1 :])
                same = shape_of[other] == shape_of[name] and bytes_of[other] == bytes_of[name]
                if mine not in outside and not read_later and same:
                    piece[name] = mine
    return piece


def peak_slowly(model):
    """The definition: at each node, everything computed so far that is still needed."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shape_of, bytes_of = {}, {}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        kind = value.type.tensor_type
        shape_of[value.name] = tuple(d.dim_value for d in kind.shape.dim)
        bytes_of[value.name] = 1 if kind.elem_type == TensorProto.BOOL else 4
    given = list(model.graph.node)
    nodes = [given[index] for index in execution_order(given)]
    outside = {value.name for value in (*model.graph.input, *model.graph.output)} | {"flat"}
    piece = pieces_slowly(nodes, outside, shape_of, bytes_of)
    peak = 0
    for position, running in enumerate(nodes):
        needed = set(running.output) | {x for n in nodes[position:] for x in n.input}
        made = {name for n in nodes[: position + 1] for name in n.output}
        alive = {piece[name] for name in needed & made} - outside
        now = sum(math.prod(shape_of[name]) * bytes_of[name] for name in alive)
        peak = max(peak, now)
    return peak


@given(random_models())
@settings(deadline=None, max_examples=150)
def test_the_peak_is_its_definition(model):
    assert peak_bytes(model) == peak_slowly(model)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 100)).map(
            lambda t: Life(min(t[:2]), max(t[:2]), t[2])
        )
    )
)
def test_most_at_once_is_the_largest_sum_at_a_position(pieces):
    sums = [
        sum(life.size_bytes for life in pieces if life.first <= position <= life.last)
        for position in range(10)
    ]
    assert most_at_once(pieces) == max(sums)


def test_a_chain_of_nodes_that_write_in_place_takes_one_piece():
    chain = [node("Relu", [a], [b]) for a, b in ("xa", "ab", "bc", "cd")]
    made = model_of(chain, [info("x", [5])], [info("d", [5])])
    # The first cannot write over the input, the last writes into the output.
    assert lives(made) == [Life(0, 3, 20)]


def test_a_tensor_that_is_read_later_is_not_written_over():
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"])]
    nodes.append(node("Mul", ["a", "b"], ["c"]))
    made = model_of(nodes, [info("x", [5])], [info("c", [5])])
    assert peak_bytes(made) == 2 * 20


def test_a_sum_is_not_written_over_its_input():
    nodes = [node("Transpose", ["x"], ["a"]), node("Add", ["a", "y"], ["b"])]
    nodes.append(node("Transpose", ["b"], ["c"]))
    made = model_of(nodes, [info("x", [5, 1]), info("y", [1, 1])], [info("c", [5, 1])])
    assert sorted(lives(made)) == [Life(0, 1, 20), Life(1, 2, 20)]


ROWS, COLUMNS = 4, 1 << 21  # 32 MiB in float32, most of the process's memory


def chain_of(op, dtypes):
    """A model with tensors t0 to t4 of these dtypes in turn, each made of the one before."""
    kinds = [
        helper.np_dtype_to_tensor_dtype(np.dtype(dtypes[i % len(dtypes)])) for i in range(5)
    ]
    initializers = [
        helper.make_tensor("shape", TensorProto.INT64, [2], [COLUMNS, ROWS]),
        helper.make_tensor("one", kinds[0], [1], [1]),
    ]
    others = {"Reshape": ["shape"], "Add": ["one"], "Mul": ["one"]}.get(op, [])
    nodes = [node("Cast", ["x"], ["t0"], to=kinds[0])]
    for i in range(4):
        attributes = {"to": kinds[i + 1]} if op == "Cast" else {}
        nodes.append(node(op, [f"t{i}", *others], [f"t{i + 1}"], **attributes))
    nodes.append(node("Shape", ["t4"], ["y"]))
    inputs = [info("x", (ROWS, COLUMNS), TensorProto.UINT8)]
    return model_of(nodes, inputs, [info("y", [2], TensorProto.INT64)], initializers)


def pieces_in_onnxruntime(model, element_bytes):
    """The number of tensors that a chain needs in memory, measured and counted."""
    options = session_options(1, spinning=True)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.ones((ROWS, COLUMNS), np.uint8)
    release_free_memory()
    before = psutil.Process().memory_info().rss
    session.run(None, {"x": x})
    taken = psutil.Process().memory_info().rss - before  # the arena keeps it
    tensor_bytes = ROWS * COLUMNS * element_bytes
    return taken / tensor_bytes, peak_bytes(model) / tensor_bytes


IN_PLACE_IN_ONNXRUNTIME = [
    ("Cast", ("float32", "int32")),
    ("Cast", ("float64", "int64")),
    ("Cast", ("float16", "int16")),
    ("HardSigmoid", ("float32",)),
    ("LogSoftmax", ("float32",)),
    ("Relu", ("float32",)),
    ("Softmax", ("float32",)),
    # These are views: nothing is written at all.
    *((op, (dtype,)) for op in ("Identity", "Reshape") for dtype in DTYPES),
]
IN_NEW_MEMORY_IN_ONNXRUNTIME = [
    *((op, (dtype,)) for op in ("Add", "Mul") for dtype in ("float32", "int64")),
    ("Neg", ("float32",)),
    ("Sqrt", ("float32",)),
    ("Transpose", ("float32",)),
]


@pytest.mark.parametrize(
    ("op", "dtypes", "pieces"),
    [
        *((*case, 1) for case in IN_PLACE_IN_ONNXRUNTIME),
        *((*case, 2) for case in IN_NEW_MEMORY_IN_ONNXRUNTIME),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_onnxruntime_writes_in_place_as_declared(op, dtypes, pieces):
    taken, counted = pieces_in_onnxruntime(chain_of(op, dtypes), np.dtype(dtypes[0]).itemsize)
    assert counted == pytest.approx(pieces, abs=1e-3)
    assert taken == pytest.approx(pieces, abs=0.4)


def test_operators_that_share_memory_are_those_that_were_measured():
    assert {op for op, _ in IN_PLACE_IN_ONNXRUNTIME} == IN_PLACE | VIEWS


def step_model():
    program = Program(make_recipe(RECIPE, where="test"))
    return graphs.step_graph(program.bind(program.settings[0]), program.initial_state()).model


def profiled_order(model, folder):
    """Names of the nodes in the order in which ONNX Runtime runs them, unoptimised."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    dtypes = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    session.run(None, {i.name: np.ones(i.shape, dtypes[i.type]) for i in session.get_inputs()})
    with open(session.end_profiling()) as file:
        ran = [event["name"] for event in json.load(file) if event["cat"] == "Node"]
    ending = "_kernel_time"
    return [name.removesuffix(ending) for name in ran if name.endswith(ending)]


def test_the_order_is_that_of_onnxruntime(tmp_path):
    model = step_model()
    nodes = list(model.graph.node)
    assert [nodes[i].name for i in execution_order(nodes)] == profiled_order(model, tmp_path)


def test_the_arena_also_has_room_for_the_largest_tensor_again():
    nodes = [node("Neg", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["c"])]
    made = model_of(nodes, [info("x", [5])], [info("c", [5])])
    assert (peak_bytes(made), arena_bytes(made)) == (2 * 20, 3 * 20)


def test_a_step_frees_what_it_no_longer_needs():
    model = step_model()
    assert 0 < 2 * peak_bytes(model) < sum(life.size_bytes for life in lives(model))
