"""Which form of a weight gradient's product is fastest on this processor?

dW = X^T G sums over thousands of rows: X is (rows, in), G is (rows, out). Forms of one or a
few nodes of ONNX, on ONNX Runtime, all in one process; rounds interleaved, every other round
backwards. One row is one form at one shape; `forward` is X W of the same FLOPs. With one
thread (the default) a time is the processor's, without what other programs take in between.

    python benchmarks/weight_gradients.py --json > docs/results/weight_gradients.json

    matmul      Transpose, MatMul            what the lowering writes; the runtime may fuse it
    gemm        Gemm, A transposed
    fused       FusedMatMul (com.microsoft), A transposed
    swapped     MatMul of G^T and X, its result transposed
    swapped-gemm  Gemm of G and X, A transposed, its result transposed
    cut-N       MatMul of N parts of the rows as a batch, then their sum
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from parts.common import Row, machine, say, spread, table, versions

from edge_runtime.engines.runtime import session_options

FORWARD = "forward"
CUTS = (2, 4, 8)
FLOAT = onnx.TensorProto.FLOAT
ROWS = (2080, 6304)  # 32 pictures of 65 and of 197 tokens
WIDTHS = (192, 384, 768)  # ViT-Ti, ViT-S, ViT-B


class Shape(NamedTuple):
    """Of one product."""

    rows: int
    inner: int  # of the weight's input
    outer: int  # of its output

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inner * self.outer


class Graph:
    """Nodes, named by their outputs."""

    def __init__(self, shape: Shape) -> None:
        """Begin with X and G."""
        self.shape, self.nodes = shape, list[onnx.NodeProto]()
        self.constants = list[onnx.TensorProto]()

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns its output."""
        name = f"v{len(self.nodes)}"
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def sizes(self, *sizes: int) -> str:
        """A constant of integers."""
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.array(sizes, np.int64), name))
        return name


def transposed(g: Graph, x: str) -> str:
    """A matrix transposed."""
    return g.node("Transpose", x, perm=[1, 0])


def cut(parts: int) -> Callable[[Graph], str]:
    """The rows in equal parts, multiplied as a batch."""

    def product(g: Graph) -> str:
        rows, inner, outer = g.shape
        x = g.node("Reshape", "x", g.sizes(parts, rows // parts, inner))
        grad = g.node("Reshape", "g", g.sizes(parts, rows // parts, outer))
        each = g.node("MatMul", g.node("Transpose", x, perm=[0, 2, 1]), grad)
        return g.node("ReduceSum", each, g.sizes(0), keepdims=0)

    return product


FORMS: dict[str, Callable[[Graph], str]] = {
    FORWARD: lambda g: g.node("MatMul", "x", "w"),
    "matmul": lambda g: g.node("MatMul", transposed(g, "x"), "g"),
    "gemm": lambda g: g.node("Gemm", "x", "g", transA=1),
    "fused": lambda g: g.node("FusedMatMul", "x", "g", transA=1, domain="com.microsoft"),
    "swapped": lambda g: transposed(g, g.node("MatMul", transposed(g, "g"), "x")),
    "swapped-gemm": lambda g: transposed(g, g.node("Gemm", "g", "x", transA=1)),
    **{f"cut-{parts}": cut(parts) for parts in CUTS},
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    facts = {**machine(), "instruction_sets": instruction_sets()}
    rows = [row for shape in shapes_of(args) for row in measure(shape, args)]
    if args.json:
        known = versions("numpy", "onnxruntime", "onnxruntime-training-cpu")
        print(json.dumps({"rows": rows, "machine": facts, "versions": known}, indent=1))
    else:
        columns = list(rows[0])
        print(table(columns, [[str(row[name]) for name in columns] for row in rows]))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


def shapes_of(args: argparse.Namespace) -> list[Shape]:
    """The four products of a block for each width and number of rows."""
    if args.quick:
        return [Shape(320, 48, 144)]
    return [
        Shape(rows, inner, outer)
        for rows in ROWS
        for width in WIDTHS
        for inner, outer in (
            (width, width), (width, 3 * width), (width, 4 * width), (4 * width, width),
        )
    ]  # fmt: skip


def instruction_sets() -> list[str]:
    """Those that decide the kernel of a product."""
    flags = next(
        line.split(":")[1].split()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("flags", "Features"))
    )
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "asimd", "asimddp", "bf16", "sve")
    return [name for name in wanted if name in flags]


def measure(shape: Shape, args: argparse.Namespace) -> list[Row]:
    """All forms of one product."""
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal(size, np.float32)
        for name, size in (
            ("x", (shape.rows, shape.inner)),
            ("g", (shape.rows, shape.outer)),
            ("w", (shape.inner, shape.outer)),
        )
    }
    expected = feeds["x"].T @ feeds["g"]
    runs = {}
    for name, form in FORMS.items():
        runs[name] = session_of(shape, form, feeds, args.threads)
        result = runs[name]()  # the first run allocates
        if name != FORWARD and not np.allclose(result, expected, atol=1e-2):
            raise SystemExit(f"{name} at {shape} is not the weight's gradient")
    clock = time.process_time if args.threads == 1 else time.perf_counter
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            begin_s = clock()
            runs[name]()
            times_ms[name].append(1000 * (clock() - begin_s))
    rows = [row_of(shape, name, times_ms) for name in runs]
    best = min(rows[1:], key=lambda row: row["min_ms"])
    say(f"{tuple(shape)}: {best['form']}, {best['of_matmul']} times matmul")
    return rows


def session_of(
    shape: Shape, form: Callable[[Graph], str], feeds: dict[str, Any], threads: int
) -> Callable[[], Any]:
    """A form as a graph in the runtime, with the options of a step; returns its run."""
    g = Graph(shape)
    result = form(g)
    used = sorted({name for node in g.nodes for name in node.input} & feeds.keys())
    inputs = [helper.make_tensor_value_info(n, FLOAT, feeds[n].shape) for n in used]
    output = helper.make_tensor_value_info(result, FLOAT, ["a", "b"])
    graph = helper.make_graph(g.nodes, "product", inputs, [output], g.constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        session_options(threads, spinning=True),
        providers=["CPUExecutionProvider"],
    )
    given = {name: feeds[name] for name in used}
    return lambda: session.run(None, given)[0]


def row_of(shape: Shape, name: str, times_ms: dict[str, list[float]]) -> Row:
    """Speed of one form; ratios are of least times: other programs disturb them least."""
    least = {form: min(times) for form, times in times_ms.items()}
    return {
        **shape._asdict(),
        "form": name,
        **spread(times_ms[name], "ms", 3),
        "gflop_per_s": round(shape.flops / least[name] / 1e6, 1),
        "median_gflop_per_s": round(shape.flops / statistics.median(times_ms[name]) / 1e6, 1),
        "of_forward": round(least[FORWARD] / least[name], 3),
        "of_matmul": round(least["matmul"] / least[name], 3),
    }


if __name__ == "__main__":
    main()
