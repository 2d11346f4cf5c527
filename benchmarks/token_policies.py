"""How much of the FLOPs that a token policy saves is saved in time, and what do methods cost?

Steps of a method and one ViT with every token policy, each on rungs that save about a quarter
to a half of the FLOPs, beside the step of that method on all tokens: time saved over FLOPs
saved. One row is one rung; each is measured in a new process per round, rows interleaved.
Compared is the time that the fast tenth of a row's steps took at most: other programs only add
to it.

    python benchmarks/token_policies.py
    python benchmarks/token_policies.py --policies none --methods simclr,mocov3,mae

Pictures of 48 px in patches of 6 px are the 64 tokens of the other benchmarks; patches of 8 px
are 36 tokens. FLOPs are those of the matrix products, from the manifest.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts.common import (
    MIB,
    Row,
    add_common_arguments,
    edge_train,
    fast_tenth,
    in_fresh_process,
    interleaved,
    machine,
    say,
    spread,
    table,
    versions,
)

from edge_runtime.package import open_package
from edge_runtime.state import state_chunks

DENSE = "none"
# Policy -> flags of its export. Keep-ratios of evit and simprune apply at three stages.
POLICIES = {
    DENSE: ("--tokens", "none"),
    "random": ("--tokens", "random", "--keep-ratios", "0.75,0.5"),
    "patch-scaling": ("--tokens", "none", "--set", "patch_sizes=[8]"),
    "aps": ("--tokens", "aps", "--keep-ratios", "0.75,0.5"),
    "evit": ("--tokens", "evit", "--keep-ratios", "0.75,0.6"),
    "simprune": ("--tokens", "simprune", "--keep-ratios", "0.75,0.6"),
    "tome": ("--tokens", "tome", "--keep-ratios", "0.5,0.25"),
    "ranked": ("--tokens", "ranked", "--keep-ratios", "0.6,0.4"),
}
# A method that learns only from hidden patches has no step on all tokens.
DENSE_OF = {"mae": ("--tokens", "random", "--keep-ratios", "0.25")}
MODEL = "vit_tiny"


@dataclass(frozen=True)
class Case:
    """One row before it is measured."""

    method: str
    policy: str
    package: Path
    rung: str
    flops: int


def main(words: Sequence[str] | None = None) -> None:
    """Export, measure, print."""
    args = parse(words)
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            case
            for method in args.methods
            for policy in dict.fromkeys((DENSE, *args.policies))
            for case in cases_of(method, policy, Path(folder) / f"{method}-{policy}", args)
        ]
        measured = interleaved(cases, args.rounds, lambda case: measure(case, args))
    rows = [row_of(case, results) for case, results in measured.items()]
    for method in args.methods:
        add_savings([row for row in rows if row["method"] == method])
    if args.json:
        document = {"rows": rows, "machine": facts, "versions": versions("torch", "numpy")}
        print(json.dumps(document, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, with the changes of `--quick`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_common_arguments(parser, rounds=7, steps=8)
    parser.add_argument(
        "--policies",
        type=lambda text: text.split(","),
        default=list(POLICIES),
        metavar="P,P,...",
        help=f"of {','.join(POLICIES)}; default: all",
    )
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=["simclr"],
        metavar="M,M,...",
        help="default: simclr",
    )
    parser.add_argument("--threads", type=int, default=2, help="of the engine; default: 2")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before; default: 3")
    args = parser.parse_args(words)
    if unknown := set(args.policies) - set(POLICIES):
        parser.error(f"unknown policy {', '.join(unknown)}; known are {', '.join(POLICIES)}")
    if args.quick:
        args.rounds, args.steps, args.warm_up, args.depth = 1, 2, 1, 3
    return args


def cases_of(method: str, policy: str, package: Path, args: argparse.Namespace) -> list[Case]:
    """The rungs of a method with a policy, whose package is exported now."""
    tokens = DENSE_OF.get(method, POLICIES[DENSE]) if policy == DENSE else POLICIES[policy]
    flags = [
        *("--model", MODEL, "--image-size", "48", "--patch-size", "6"),
        *("--depth", str(args.depth), "--batch-size", str(args.batch_size)),
        *("--method", method, *tokens),
    ]
    if policy == "ranked":
        ranker = untrained_ranker(package.with_suffix(".safetensors"), args.depth)
        flags += ["--ranker", str(ranker)]
    say(f"exporting {' '.join(flags)}")
    edge_train(["export", *flags, "-o", str(package)])
    rungs = open_package(package).manifest.rungs
    return [Case(method, policy, package, rung.id, rung.flops) for rung in rungs]


def untrained_ranker(path: Path, depth: int) -> Path:
    """A ranker of random weights: the time of a step does not depend on them."""
    from edge_export.package.ranker import AFTER
    from edge_export.policies.ranked import (
        RankedPolicy,
        blocks_before,
        initial_ranker_weights,
    )
    from edge_export.recipe import make_recipe

    model = {"name": MODEL, "depth": depth}
    recipe = make_recipe({"model": model, "tokens": {"name": "ranked"}}, where="ranked")
    after = blocks_before(recipe.facts(), recipe.token_options(RankedPolicy))
    weights = initial_ranker_weights(recipe.facts().width)
    arrays = {name: value.numpy() for name, value in weights.items()}
    path.write_bytes(b"".join(map(bytes, state_chunks(arrays, {AFTER: str(after)}))))
    return path


def measure(case: Case, args: argparse.Namespace) -> Row:
    """One process of one row."""
    job = {
        "engine": "ort",
        "package": str(case.package),
        "rung": case.rung,
        "threads": args.threads,
        "warm_up": args.warm_up,
        "steps": args.steps,
    }
    row = in_fresh_process(sys.executable, "step_ort", job)
    median_ms = statistics.median(row["step_ms"])
    say(f"{case.method:13}{case.policy:15}{case.rung:10}{median_ms:9.1f} ms")
    return row


def row_of(case: Case, results: list[Row]) -> Row:
    """A row of all rounds."""
    step_ms = [step for result in results for step in result["step_ms"]]
    return {
        "method": case.method,
        "policy": case.policy,
        "rung": case.rung,
        "flops": case.flops,
        **spread(step_ms, "ms"),
        "fast_ms": round(fast_tenth(step_ms), 2),
        "round_medians_ms": [round(statistics.median(r["step_ms"]), 2) for r in results],
        "peak_rss_bytes": max(result["peak_rss_bytes"] for result in results),
        "steps": len(step_ms),
        "onnxruntime": results[0]["runtime"],
    }


def add_savings(rows: list[Row]) -> None:
    """Add what each row of a method saves of its dense one: of FLOPs, time and memory."""
    dense = next(row for row in rows if row["policy"] == DENSE)
    for row in rows:
        row["flops_saved"] = round(1 - row["flops"] / dense["flops"], 4)
        row["time_saved"] = round(1 - row["fast_ms"] / dense["fast_ms"], 4)
        row["memory_saved"] = round(1 - row["peak_rss_bytes"] / dense["peak_rss_bytes"], 4)


def text_of(rows: list[Row]) -> str:
    """The table."""
    lines = [
        [
            row["method"],
            row["policy"],
            row["rung"],
            *(f"{row[key]:.0f}" for key in ("fast_ms", "median_ms", "max_ms")),
            f"{row['peak_rss_bytes'] / MIB:.0f}",
            f"{row['flops'] / 1e9:.1f}",
            *(f"{row[key]:.1%}" for key in ("flops_saved", "time_saved")),
            f"{row['time_saved'] / row['flops_saved']:.2f}" if row["flops_saved"] else "-",
        ]
        for row in rows
    ]
    columns = (
        "method", "policy", "rung", "fast ms", "median", "max", "peak MiB", "GFLOP",
        "FLOPs saved", "time saved", "time/FLOPs saved",
    )  # fmt: skip
    return table(columns, lines)


if __name__ == "__main__":
    main()
