"""FLOPs of lowered graphs, against PyTorch's count and published numbers."""

from dataclasses import fields
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="its counter is the oracle")

import onnx  # noqa: E402
from combinations import METHODS_AND_POLICIES  # noqa: E402
from encoded import encoded  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edge_export.analysis.flops import graph_flops  # noqa: E402
from edge_export.analysis.shapes import tensor_shapes  # noqa: E402
from edge_export.lowering.trace import lower  # noqa: E402
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.package import graphs  # noqa: E402
from edge_export.policies import POLICIES  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402

RANDOM = {"name": "random"}
PLACEMENTS = ("before-mlp", "before-block", "after-block")
TOKENS = [
    *({"name": name} for name in POLICIES if name != "simprune"),
    *({"name": "simprune", "placement": placement} for placement in PLACEMENTS),
    {"name": "simprune", "paired": False},
    {"name": "evit", "fuse": True},
    {"name": "ranked", "repair": 2},
]


def name_of(tokens):
    return "-".join(map(str, tokens.values()))


METHODS_AND_TOKENS = [
    pytest.param(method, tokens, id=f"{method}-{name_of(tokens)}")
    for method in OBJECTIVES
    for tokens in TOKENS
    if (method, tokens["name"]) in METHODS_AND_POLICIES
]


def make_program(method="simclr", tokens=RANDOM, *, depth=2, **table):
    sizes = {"image_size": 16, "patch_size": 4, "depth": depth, "width": 48, "heads": 2}
    known = {item.name for item in fields(OBJECTIVES[method].options)}
    small = {"projector_width": 24, "projector_out": 8, "decoder_width": 24}
    given = {
        "model": sizes,
        "batch_size": 4,
        "method": {"name": method, **{k: v for k, v in small.items() if k in known}},
        "tokens": tokens,
        "keep_ratios": [1.0] if tokens["name"] == "none" else [0.4],
    }
    return Program(make_recipe({**given, **table}, where="test"))


def rung_and_state(program):
    return program.bind(program.settings[-1]), program.initial_state()


def counted_flops(rung, state):
    """PyTorch's count while it computes loss and gradients."""
    inputs = graphs.step_inputs(rung, state).tensors
    with FlopCounterMode(display=False) as counter:
        rung.gradient(inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(("method", "tokens"), METHODS_AND_TOKENS)
def test_a_steps_flops_are_those_that_pytorch_counts(method, tokens):
    rung, state = rung_and_state(make_program(method, tokens, depth=5))
    graph = graphs.step_graph(rung, state)
    assert graph.spec.flops == counted_flops(rung, state)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("tokens", TOKENS, ids=name_of)
def test_stages_that_are_left_out_or_fall_together_are_counted_once(tokens, depth):
    rung, state = rung_and_state(make_program("simclr", tokens, depth=depth))
    assert graphs.step_graph(rung, state).spec.flops == counted_flops(rung, state)


@pytest.mark.parametrize(
    "table",
    [
        {"patch_sizes": [2]},
        {"trained": ["last-1"]},
        {"micro_batches": [4]},
        {"tokens": {"name": "random+simprune"}},
    ],
    ids=lambda table: next(iter(table)),
)
def test_flops_of_other_rungs_are_those_of_pytorch_too(table):
    rung, state = rung_and_state(make_program(**table))
    lowered = graphs.step_graph if "micro_batches" not in table else graphs.accumulate_graph
    assert lowered(rung, state).spec.flops == counted_flops(rung, state)


def test_fewer_tokens_cost_less():
    ratios = [0.2, 0.5, 0.75, 1.0]
    program = make_program("mocov3", keep_ratios=ratios)
    state = program.initial_state()
    flops = [graphs.step_graph(program.bind(s), state).spec.flops for s in program.settings]
    assert flops == sorted(set(flops))


def shapes_of(model, operator):
    """Shapes of the first results of an operator's nodes, in the order of the file."""
    shapes = tensor_shapes(model)
    return [shapes[n.output[0]].sizes for n in model.graph.node if n.op_type == operator]


@pytest.mark.parametrize(("method", "tokens"), METHODS_AND_TOKENS)
def test_tokens_per_block_are_those_of_the_softmaxes(method, tokens):
    """The teacher's are in the graph, too: it sees all tokens, or the student's number."""
    depth = 5
    rung, state = rung_and_state(make_program(method, tokens, depth=depth))
    model = graphs.step_graph(rung, state).model
    softmaxes = [shape for shape in shapes_of(model, "Softmax") if len(shape) == 4]
    heads = rung.program.model.heads
    in_attention = [shape[-1] for shape in softmaxes if shape[1] == heads]  # not the decoder's
    attended = graphs.tokens_per_block(rung, state)["global"]
    teacher = (17,) * depth if tokens["name"] == "random" else attended
    teachers = teacher if rung.program.teacher_names else ()
    assert sorted(in_attention) == sorted([*attended, *teachers])
    if tokens["name"] != "none":
        assert min(attended) < 17


# Published FLOPs of a real model's forward pass. Shapes suffice; nothing is computed.

WIDTH, CLASSES, PIXELS = 384, 1000, 16 * 16 * 3
PICTURES, VIEWS = 2, 2


def deit_small(tokens, keep_ratio, **options):
    """A rung of DeiT-S with one encoder for both views, and a state of shapes only."""
    table = {
        "model": {"name": "deit_small_patch16_224"},
        "tokens": {"name": tokens, **options},
        "keep_ratios": [keep_ratio],
        "batch_size": PICTURES,
    }
    program = Program(make_recipe(table, where="test"))
    rung = program.bind(program.settings[0])
    fake = FakeTensorMode()
    state = {name: fake.from_tensor(v) for name, v in program.initial_state().items()}
    return rung, state


def encoder_graph(rung, state):
    """The rung's forward pass up to the features."""

    def features(inputs):
        weights = {name: inputs[f"param.{name}"] for name in rung.program.parameters}
        return {"features": encoded(rung, weights, inputs).student.features}

    return lower(features, graphs.step_inputs(rung, state).tensors, name="features")


def macs_slowly(attended, fed, width, *, queries):
    """Multiply-adds of one block by the textbook."""
    macs = attended * width * width * 3  # queries, keys, values
    macs += 2 * queries * attended * width  # scores, and their mix of the values
    macs += queries * width * width  # projection
    return macs + fed * width * 4 * width * 2  # MLP


@pytest.mark.parametrize(
    ("tokens", "keep_ratio", "giga_macs", "blocks"),
    [
        ("none", 1.0, 4.599, [(197, 197)] * 12),
        (
            "simprune",
            0.8,
            3.444,
            [
                *[(197, 197)] * 3,
                (197, 158),  # block 4 of 12
                *[(158, 158)] * 2,
                (158, 127),
                *[(127, 127)] * 2,
                (127, 102),
                *[(102, 102)] * 2,
            ],
        ),
    ],
)
def test_deit_small_has_the_published_flops(tokens, keep_ratio, giga_macs, blocks):
    rung, state = deit_small(tokens, keep_ratio)
    assert graphs.tokens_per_block(rung, state)["global"] == tuple(a for a, _ in blocks)
    whole = sum(macs_slowly(a, fed, WIDTH, queries=a) for a, fed in blocks)
    patches = 196 * PIXELS * WIDTH
    # Papers count ImageNet's classifier, and all tokens of the last block.
    assert (whole + patches + WIDTH * CLASSES) / 1e9 == pytest.approx(giga_macs, abs=5e-4)
    # Here: in the last block only the class token is a query.
    attended, fed = blocks[-1]
    whole += macs_slowly(attended, 1, WIDTH, queries=1)
    whole -= macs_slowly(attended, fed, WIDTH, queries=attended)
    model = encoder_graph(rung, state)
    hidden = [rows for rows, columns in shapes_of(model, "Gemm") if columns == 4 * WIDTH]
    sequences = PICTURES * VIEWS
    assert hidden == [sequences * fed for _, fed in blocks[:-1]] + [sequences]
    # And a picture's views are compared, token with token, before they are pruned.
    stages = [attended - 1 for attended, fed in blocks if fed < attended]
    compared = PICTURES * sum(tokens**2 * WIDTH for tokens in stages)
    assert graph_flops(model) == 2 * (sequences * (whole + patches) + compared)


@pytest.mark.parametrize(("keep_ratio", "giga_macs"), [(0.9, 4.0), (0.8, 3.5), (0.5, 2.3)])
def test_evit_has_the_published_flops(keep_ratio, giga_macs):
    """Those that its authors give for DeiT-S; without fused tokens, 0.8 would be 3.4."""
    rung, state = deit_small("evit", keep_ratio, fuse=True)
    attended = graphs.tokens_per_block(rung, state)["global"]
    fed = (*attended[1:], attended[-1])  # to the MLPs: no stage is in the last block
    blocks = zip(attended, fed, strict=True)
    whole = sum(macs_slowly(a, f, WIDTH, queries=a) for a, f in blocks)
    whole += 196 * PIXELS * WIDTH + WIDTH * CLASSES
    assert round(whole / 1e9, 1) == giga_macs


# Counted operations.


def product(operator, a, b, output, **attributes):
    """A model of one product."""
    node = helper.make_node(operator, ["a", "b"], ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("a", a), ("b", b))
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    graph = helper.make_graph([node], "test", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("model", "flops"),
    [
        (product("MatMul", [3, 5], [5, 7], [3, 7]), 2 * 3 * 5 * 7),
        (product("MatMul", [2, 4, 3, 5], [2, 4, 5, 7], [2, 4, 3, 7]), 2 * 8 * 3 * 5 * 7),
        (product("Gemm", [3, 5], [5, 7], [3, 7]), 2 * 3 * 5 * 7),
        (product("Gemm", [5, 3], [5, 7], [3, 7], transA=1), 2 * 3 * 5 * 7),
        (product("Gemm", [3, 5], [7, 5], [3, 7], transB=1), 2 * 3 * 5 * 7),
        (product("MatMul", [3, 5], [5, 1], [3, 1]), 0),  # a sum over an axis
        (product("Add", [3, 5], [3, 5], [3, 5]), 0),
        (product("MatMul", ["rows", 5], [5, 7], ["rows", 7]), None),
        (product("MatMul", [3, "inner"], ["inner", 7], [3, 7]), None),
    ],
)
def test_a_product_takes_two_flops_for_each_multiplication(model, flops):
    onnx.checker.check_model(model)
    assert graph_flops(model) == flops


def test_flops_after_operators_of_another_domain_are_unknown():
    model = product("MatMul", [3, 5], [5, 7], [3, 7])
    model.graph.node[0].domain = "com.microsoft"
    assert graph_flops(model) is None


def test_a_graph_with_a_free_batch_has_no_flops():
    program = make_program()
    assert graphs.embed_graph(program, program.initial_state()).spec.flops is None


def saved_in_document(policy):
    """The last row of a policy's table in docs/methods.md: keep-ratio, tokens, percentages."""
    text = (Path(__file__).parents[1] / "docs/methods.md").read_text()
    section = text.partition(f"\n## {policy}\n")[2].partition("\n## ")[0]
    return [cell.strip() for cell in section.strip().splitlines()[-1].strip("|").split("|")]


@pytest.mark.parametrize(
    ("policy", "options", "column"),
    [(name, {}, 2) for name in POLICIES if name != "none"] + [("evit", {"fuse": True}, 4)],
)
def test_the_document_says_what_policies_save(policy, options, column):
    row = saved_in_document(policy)
    table = {
        "model": {"name": "vit_tiny", "image_size": 32, "patch_size": 4},
        "tokens": {"name": policy, **options},
        "keep_ratios": [1.0, 0.5],
    }
    program = Program(make_recipe(table, where="test"))
    state = program.initial_state()
    rungs = [program.bind(settings) for settings in program.settings]
    dense, short = (graphs.step_graph(rung, state).spec.flops for rung in rungs)
    assert (row[0], row[column]) == ("0.5", f"{100 * (1 - short / dense):.0f} %")
    if not options:
        tokens = graphs.tokens_per_block(rungs[1], state)["global"]
        assert row[1] == ", ".join(str(n - 1) for n in dict.fromkeys(tokens))
