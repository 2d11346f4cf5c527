"""How fast is a training step on an NVIDIA GPU, in PyTorch and in ONNX Runtime?

The same SimCLR step of the same ViT from the same weights on the same batch: PyTorch eager
and compiled, in float32, with TF32 products and with autocast to bfloat16 and float16; engine
`ort` on `webgpu` and `cuda`, in float32 and float16; with all tokens and with half of them.
One row is one of them; each is measured in a new process per round, rows interleaved. A row
that fails has its reason instead of numbers, and the others go on.

The machine with the GPU needs Python with PyTorch and nothing from a network. Prepare a kit
elsewhere, bring it there whole or in pieces, and measure:

    python benchmarks/gpu_step.py prepare kit --pieces pieces
    python benchmarks/gpu_step.py receive PIECES kit      # there, once per load of pieces
    python benchmarks/gpu_step.py run kit -o gpu_step.json
    python benchmarks/gpu_step.py rehearse --webgpu-python .venv-webgpu/bin/python

`rehearse` does the same without a GPU, with tiny models: PyTorch on the processor, and the
plugin of another environment on a software driver. Its times say nothing.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from parts import gpu_kit
from parts.common import (
    MIB,
    Row,
    in_fresh_process,
    interleaved,
    machine,
    say,
    spread,
    table,
    versions,
)
from parts.gpu import Gpu

KEEP_RATIOS = (1.0, 0.5)
COMMON = ("--method", "simclr", "--tokens", "random", "--keep-ratios", "1.0,0.5")
MODELS = {
    "vit_ti_32px": (
        *("--model", "vit_tiny", "--image-size", "32", "--patch-size", "4"),
        *("--batch-size", "128"),
    ),
    "vit_s_224px": (
        *("--model", "vit_small", "--image-size", "224", "--patch-size", "16"),
        *("--batch-size", "64"),
    ),
}
TINY = {
    "tiny_8px": (
        *("--model", "vit_tiny", "--image-size", "8", "--patch-size", "2", "--depth", "1"),
        *("--width", "16", "--heads", "1", "--batch-size", "4"),
    )
}
TORCH = [
    ("eager", "fp32"), ("eager", "tf32"), ("eager", "bf16"), ("eager", "fp16"),
    ("compile", "fp32"), ("compile", "tf32"), ("compile", "bf16"), ("compile", "fp16"),
]  # fmt: skip
PRECISIONS = ("fp32", "fp16")  # of packages
DEVICES = ("webgpu", "cuda")


@dataclass(frozen=True)
class Case:
    """One row before it is measured."""

    model: str
    engine: str
    device: str
    precision: str
    keep_ratio: float

    @property
    def package(self) -> str:
        """The name of its package: PyTorch starts from the weights of that in float32."""
        return f"{self.model}-{self.precision if self.engine == 'ort' else 'fp32'}"

    @property
    def worker(self) -> str:
        """The part that measures it."""
        return "step_ort" if self.engine == "ort" else "step_torch"


Runner = Callable[[Case, dict[str, object]], Row]  # measures a case with a job, in a process


def main(words: Sequence[str] | None = None) -> None:
    """Do what the first word says."""
    args = parse(words)
    args.act(args)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    acts = parser.add_subparsers(required=True)
    made = acts.add_parser("prepare", help="download wheels, export packages")
    made.set_defaults(act=prepare)
    made.add_argument("kit", type=Path, help="a new folder")
    made.add_argument("--python-version", default="3.12", help="there; default: 3.12")
    made.add_argument("--pieces", type=Path, help="a new folder for the kit in pieces")
    made.add_argument("--piece-mib", type=int, default=48, help="at most; default: 48")
    given = acts.add_parser("receive", help="add pieces to a kit; the last one unpacks it")
    given.set_defaults(act=receive)
    given.add_argument("pieces", type=Path, help="a folder with some of them")
    given.add_argument("kit", type=Path)
    there = acts.add_parser("run", help="measure on this machine's GPU")
    there.set_defaults(act=run)
    there.add_argument("kit", type=Path)
    there.add_argument("--models", default=",".join(MODELS), help="default: all")
    here = acts.add_parser("rehearse", help="the same with tiny models, without a GPU")
    here.set_defaults(act=rehearse)
    here.add_argument("--webgpu-python", default=sys.executable, help="with the plugin")
    for each, rounds, steps in ((there, 3, 60), (here, 2, 3)):
        each.add_argument("-o", "--output", type=Path, help="file for one JSON document")
        each.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
        each.add_argument("--steps", type=int, default=steps, help=f"default: {steps}")
        each.add_argument("--warm-up", type=int, default=5, help="steps before; default: 5")
    return parser.parse_args(words)


def prepare(args: argparse.Namespace) -> None:
    """Make a kit."""
    args.kit.mkdir(parents=True)
    gpu_kit.collect_wheels(args.kit, args.python_version)
    gpu_kit.export_packages(args.kit, recipes(MODELS))
    if args.pieces:
        for path in gpu_kit.write_pieces(args.kit, args.pieces, args.piece_mib):
            print(f"{path}: {path.stat().st_size / MIB:.1f} MiB")


def recipes(models: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Flags of `edge-train export` by package: each model in each precision."""
    return {
        f"{name}-{precision}": [
            *flags,
            *COMMON,
            *([] if precision == "fp32" else ["--precision", precision]),
        ]
        for name, flags in models.items()
        for precision in PRECISIONS
    }


def receive(args: argparse.Namespace) -> None:
    """Take pieces."""
    missing = gpu_kit.receive(args.pieces, args.kit)
    print(f"missing: {', '.join(missing)}" if missing else f"{args.kit} is complete")


def run(args: argparse.Namespace) -> None:
    """Measure with a kit."""
    variables: dict[str, dict[str, str]] = {}

    def runner(case: Case, job: dict[str, object]) -> Row:
        device = "cuda" if case.engine != "ort" else case.device
        if device not in variables:
            variables[device] = gpu_kit.worker_variables(args.kit, device)
        return in_fresh_process(sys.executable, case.worker, job, variables[device])

    models = args.models.split(",")
    measure_all(cases_of(models, torch_device="cuda"), args.kit, args, runner)


def rehearse(args: argparse.Namespace) -> None:
    """Measure tiny models without a GPU."""

    def runner(case: Case, job: dict[str, object]) -> Row:
        python = args.webgpu_python if case.engine == "ort" else sys.executable
        return in_fresh_process(python, case.worker, {**job, "threads": 1})

    with tempfile.TemporaryDirectory() as folder:
        kit = Path(folder)
        gpu_kit.export_packages(kit, recipes(TINY))
        measure_all(cases_of(list(TINY), torch_device="cpu"), kit, args, runner)


def cases_of(models: Sequence[str], *, torch_device: str) -> list[Case]:
    """Every row; the first of each model and keep-ratio is the baseline."""
    engines = [(engine, torch_device, precision) for engine, precision in TORCH]
    engines += [("ort", device, precision) for device in DEVICES for precision in PRECISIONS]
    return [
        Case(m, *engine, ratio) for m in models for ratio in KEEP_RATIOS for engine in engines
    ]


def measure_all(
    cases: list[Case], kit: Path, args: argparse.Namespace, runner: Runner
) -> None:
    """Measure every row in every round, print the table and write the document."""
    packages, failed = gpu_kit.packages_of(kit), dict[Case, str]()

    def measure(case: Case) -> Row | None:
        if reason := failed.get(case) or packages[case.package].get("reason"):
            failed[case] = reason
            return None
        job = {"engine": case.engine, "device": case.device, "precision": case.precision}
        job |= {"package": str(kit / packages[case.package]["path"]), "threads": None}
        job |= {"keep_ratio": case.keep_ratio, "warm_up": args.warm_up, "steps": args.steps}
        try:
            row = runner(case, job)
        except SystemExit as error:
            failed[case] = last_line(str(error))
            say(f"{case}: {failed[case]}")
            return None
        say(f"{case}: {statistics.median(row['step_ms']):.1f} ms")
        return row

    facts = {**machine(), "gpu": Gpu().facts()}
    measured = interleaved(cases, args.rounds, measure)
    by_case = {
        case: row_of(case, [each for each in found if each], failed)
        for case, found in measured.items()
    }
    compare(by_case)
    rows = list(by_case.values())
    print(text_of(rows))
    if args.output:
        document = {"rows": rows, "machine": facts, "versions": versions("numpy")}
        args.output.write_text(json.dumps(document, indent=1) + "\n")


def last_line(text: str) -> str:
    """The line of a traceback that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def row_of(case: Case, results: list[Row], failed: dict[Case, str]) -> Row:
    """A row of all rounds, or the reason why there is none."""
    if case in failed or not results:
        return {**asdict(case), "reason": failed.get(case, "not measured")}
    energy_j = [r["gpu_energy_j"] for r in results if r["gpu_energy_j"] is not None]
    gpu_bytes = [r["gpu_bytes"] for r in results if r["gpu_bytes"] is not None]
    step_ms = [step for result in results for step in result["step_ms"]]
    return {
        **asdict(case),
        "runtime": results[0]["runtime"],
        **spread(step_ms, "ms", 3),
        "steps": len(step_ms),
        "gpu_bytes": max(gpu_bytes, default=None),
        "step_energy_j": round(statistics.median(energy_j), 4) if energy_j else None,
        "peak_rss_bytes": max(result["peak_rss_bytes"] for result in results),
        "first_loss": results[0]["first_loss"],
        "flops": results[0]["flops"],
    }


def compare(rows: dict[Case, Row]) -> None:
    """Add what follows from other rows: eager in float32, and the same row with all tokens."""
    measured = {case: row for case, row in rows.items() if "reason" not in row}
    eager = {
        (case.model, case.keep_ratio): row
        for case, row in measured.items()
        if (case.engine, case.precision) == ("eager", "fp32")
    }
    for case, row in measured.items():
        base = eager.get((case.model, case.keep_ratio))
        dense = measured.get(replace(case, keep_ratio=1.0))
        row["times_eager"] = row["loss_difference"] = row["time_per_flops_saved"] = None
        if base is not None:
            row["times_eager"] = round(base["median_ms"] / row["median_ms"], 3)
            row["loss_difference"] = relative(row["first_loss"], base["first_loss"])
        if dense is not None and dense is not row:
            time_saved = 1 - row["median_ms"] / dense["median_ms"]
            flops_saved = 1 - row["flops"] / dense["flops"]
            row["time_per_flops_saved"] = round(time_saved / flops_saved, 3)


def relative(value: float, wanted: float) -> float | None:
    """The relative difference; None where one of them is not finite."""
    if not (math.isfinite(value) and math.isfinite(wanted)):
        return None
    return abs(value - wanted) / abs(wanted)


def text_of(rows: list[Row]) -> str:
    """The table; reasons stand below it."""
    columns = (
        "model", "keep", "engine", "device", "precision", "median ms", "min", "max",
        "times eager", "GPU MiB", "J/step", "loss", "time/FLOPs saved",
    )  # fmt: skip
    measured = [row for row in rows if "reason" not in row]
    lines = [
        [
            row["model"], f"{row['keep_ratio']:g}", row["engine"], row["device"],
            row["precision"], *(f"{row[k]:.2f}" for k in ("median_ms", "min_ms", "max_ms")),
            shown(row["times_eager"], ".2f"),
            shown(row["gpu_bytes"] and row["gpu_bytes"] / MIB, ".0f"),
            shown(row["step_energy_j"], ".3f"), shown(row["loss_difference"], ".1e"),
            shown(row["time_per_flops_saved"], ".2f"),
        ]
        for row in measured
    ]  # fmt: skip
    reasons = [
        f"{row['model']} {row['keep_ratio']:g} {row['engine']} {row['device']} "
        f"{row['precision']}: {row['reason']}"
        for row in rows
        if "reason" in row
    ]
    return "\n".join([table(columns, lines), *reasons])


def shown(value: float | None, form: str) -> str:
    """A number, or a dash for an unknown one."""
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
