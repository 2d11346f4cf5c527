"""The graph builder: no duplicate or unused nodes, names that depend only on the graph."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the export side is installed with PyTorch")

import onnx
import onnxruntime

from edge_export.lowering.graph import IR_VERSION, OPSET, GraphBuilder, broadcast

SHAPE = (2, 3, 4)
NUMBERS = np.arange(24, dtype=np.float32).reshape(SHAPE)


def builder():
    """A builder with inputs a and b of SHAPE."""
    g = GraphBuilder("test")
    return g, g.input("a", np.float32, SHAPE), g.input("b", np.float32, SHAPE)


def operators(model):
    return [node.op_type for node in model.graph.node]


def run(model, **feeds):
    """Outputs by name; a and b are NUMBERS unless given."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = {"a": NUMBERS, "b": NUMBERS, **feeds}
    values = session.run(
        None, {value.name: given[value.name] for value in session.get_inputs()}
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, values, strict=True))


def test_equal_nodes_are_merged():
    g, a, b = builder()
    assert g.op("Add", a, b) is g.op("Add", a, b)
    assert g.op("Add", a, b) != g.op("Add", b, a)
    assert g.op("Softmax", a, axis=1) != g.op("Softmax", a, axis=2)
    g.output("y", g.op("Mul", g.op("Add", a, b), g.op("Add", a, b)))
    assert operators(g.model()) == ["Add", "Mul"]


def test_attributes_in_any_order_make_equal_nodes():
    g, a, _ = builder()
    first = g.op("HardSigmoid", a, alpha=0.5, beta=0.25)
    assert g.op("HardSigmoid", a, beta=0.25, alpha=0.5) is first


def test_equal_constants_are_stored_once():
    g, a, _ = builder()
    assert g.constant(0.5, np.float32) == g.constant(np.float32(0.5))
    others = [
        g.constant(0.5, np.float32),
        g.constant([0.5], np.float32),
        g.constant(0, np.float32),
        g.constant(0, np.int32),  # the same four bytes
    ]
    assert len({value.name for value in others}) == 4
    assert g.constant([[1, 2]], np.int64).shape == (1, 2)
    g.output("y", g.op("Add", a, g.constant(0.5, np.float32)))
    model = g.model()
    assert len(model.graph.initializer) == 1  # those that no node needs are left out
    np.testing.assert_array_equal(run(model)["y"], NUMBERS + 0.5)


ORDERS = st.permutations(range(3))
SHAPES = st.sampled_from([(2, 3, 4), (4, 3, 2), (3, 2, 4), (1, 6, 4), (24, 1, 1), (2, 2, 6)])
STEPS = st.lists(st.one_of(ORDERS, SHAPES), max_size=8)


def changes(kinds):
    """Run numbers of equal neighbours, counted from the first."""
    return sum(before != after for before, after in zip([None, *kinds], kinds, strict=False))


# Each example makes a session: slow on a busy machine.
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_chains_of_transpositions_and_reshapes_are_numpys(steps):
    g, value, _ = builder()
    want, kinds = NUMBERS, []
    for step in steps:
        if isinstance(step, tuple):
            value, want = g.reshape(value, step), want.reshape(step)
        else:
            value, want = g.transpose(value, step), want.transpose(step)
        kinds.append(type(step))
        assert value.shape == want.shape
    g.output("y", value)
    model = g.model()
    np.testing.assert_array_equal(run(model)["y"], want)
    made = [kind for kind in operators(model) if kind != "Identity"]
    assert len(made) <= changes(kinds)  # neighbours of one kind have become one


def test_an_inverse_pair_is_removed():
    g, a, _ = builder()
    assert g.transpose(g.transpose(a, [2, 0, 1]), [1, 2, 0]) == a
    assert g.reshape(g.reshape(a, (6, 4)), SHAPE) == a
    assert g.reshape(a, SHAPE) is a
    assert g.transpose(a, [0, 1, 2]) is a


def test_a_free_size_is_reshaped_and_expanded():
    g = GraphBuilder("test")
    scalar = g.input("scalar", np.float32, ())  # has no first axis to read a size from
    x = g.input("x", np.float32, ("n", 2, 3))
    rows = g.reshape(x, ("2*n", 3))
    g.output("rows", rows)
    sizes = g.sizes(["n", 4])
    g.output("wide", g.add("Expand", [scalar, sizes], [(np.float32, ("n", 4))])[0])
    model = g.model()
    for count in (1, 5):
        x = np.random.default_rng(count).normal(size=(count, 2, 3)).astype(np.float32)
        results = run(model, x=x, scalar=np.array(7, np.float32))
        np.testing.assert_array_equal(results["rows"], x.reshape(-1, 3))
        np.testing.assert_array_equal(results["wide"], np.full((count, 4), 7, np.float32))


def test_reductions_over_no_axes_are_over_all():
    g, a, _ = builder()
    g.output("all", g.reduce("ReduceSum", a, [], False))
    g.output("kept", g.reduce("ReduceMax", a, [], True))
    g.output("last", g.reduce("ReduceMean", a, [-1], False))
    results = run(g.model())
    assert results["all"] == NUMBERS.sum()
    np.testing.assert_array_equal(results["kept"], [[[23]]])
    np.testing.assert_array_equal(results["last"], NUMBERS.mean(-1))


def test_outputs_have_their_names_without_copies():
    g, a, b = builder()
    total = g.op("Add", a, b)
    g.output("total", total)
    g.output("twice", g.op("Add", total, total))
    model = g.model()
    assert [list(node.output) for node in model.graph.node] == [["total"], ["twice"]]
    assert list(model.graph.node[1].input) == ["total", "total"]
    assert [value.name for value in model.graph.output] == ["total", "twice"]
    np.testing.assert_array_equal(run(model)["twice"], NUMBERS * 4)


def test_what_needs_a_copy_is_copied():
    g, a, b = builder()
    total, half = g.op("Add", a, b), g.constant(0.5, np.float32)
    weight = g.parameter("w", NUMBERS[0])
    for name, value in {
        "first": total,
        "second": total,
        "input": a,
        "constant": half,
        "parameter": weight,
    }.items():
        g.output(name, value)
    model = g.model()
    assert operators(model) == ["Add", *["Identity"] * 4]
    results = run(model)
    np.testing.assert_array_equal(results["first"], NUMBERS * 2)
    np.testing.assert_array_equal(results["second"], NUMBERS * 2)
    np.testing.assert_array_equal(results["input"], NUMBERS)
    np.testing.assert_array_equal(results["parameter"], NUMBERS[0])
    assert results["constant"] == 0.5
    assert [value.name for value in model.graph.initializer] == ["w", "c0"]


def test_nodes_and_inputs_that_no_output_needs_are_left_out():
    g, a, b = builder()
    g.op("Exp", g.op("Mul", a, b))
    top = g.add(
        "TopK",
        [g.op("Neg", a), g.constant([1], np.int64)],
        [(np.float32, (2, 3, 1)), (np.int64, (2, 3, 1))],
    )
    g.op("Sqrt", top[0])
    g.output("index", top[1])
    model = g.model()
    assert operators(model) == ["Neg", "TopK"]
    np.testing.assert_array_equal(run(model)["index"], np.zeros((2, 3, 1)))
    assert [value.name for value in model.graph.input] == ["a"]


def built():
    g, a, b = builder()
    g.output(
        "y",
        g.transpose(g.op("Add", g.op("Mul", a, b), g.constant(2.0, np.float32)), [2, 1, 0]),
    )
    return g.model().SerializeToString(deterministic=True)


def test_names_do_not_depend_on_what_was_built_before():
    first = built()
    g, a, b = builder()
    g.output("z", g.op("Exp", g.op("Sub", a, g.op("Div", a, b))))
    g.model()
    assert built() == first


def test_the_oldest_runtime_can_read_it():
    g, a, _ = builder()
    g.output("y", g.op("Neg", a))
    model = g.model()
    assert (model.ir_version, IR_VERSION) == (10, 10)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]
    assert OPSET == 18


@given(st.data())
def test_broadcasting_is_numpys(data):
    full = data.draw(st.lists(st.integers(1, 3), max_size=4))
    shapes = []
    for _ in range(data.draw(st.integers(1, 3))):
        ones = data.draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
        shape = [1 if one else size for one, size in zip(ones, full, strict=True)]
        shapes.append(tuple(shape[data.draw(st.integers(0, len(full))) :]))
    assert broadcast(*shapes) == np.broadcast_shapes(*shapes)


def test_a_free_size_broadcasts_with_itself_and_one():
    assert broadcast(("n", 1, 3), (1, 4, 1), ("n", 4, 3)) == ("n", 4, 3)
