"""Valid files, and every reader with all that is computed of what it reads.

A reader gets a folder with its files, one of which is damaged.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.cli.panel_text import panel_text
from edge_runtime.cli.progress import Progress
from edge_runtime.data import open_source
from edge_runtime.data.files import PictureFiles
from edge_runtime.data.header import header_of
from edge_runtime.data.sources import UnreadablePicture
from edge_runtime.device import load_board
from edge_runtime.device.sensors.replay import ReplaySensor, read_trace
from edge_runtime.engines import create_engine, encoder_weights
from edge_runtime.evaluation.encoder_file import onnx_chunks
from edge_runtime.facts import Budget, CostProfile, RungCost
from edge_runtime.live import Follower, Replay
from edge_runtime.live.metrics import metrics_of
from edge_runtime.package import open_package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.reader import MANIFEST
from edge_runtime.planning import Workload, interpolate, make_plan, overhead_of
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.profiling import check_package, load_profile, save_profile
from edge_runtime.records import open_run
from edge_runtime.records.checkpoints import checkpoint_paths, load_checkpoint
from edge_runtime.records.event_text import event_text
from edge_runtime.records.power import PowerRecord
from edge_runtime.report import csv_files, summarize
from edge_runtime.schema import unstructure
from edge_runtime.selftest import PACKAGE, RECIPE
from edge_runtime.training import TrainingOptions, train

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """What is read: files that may be damaged, below a folder, and how they are read."""

    make: Callable[[Path], object]  # valid files
    files: str  # those that are damaged: a pattern
    read: Callable[[Path], object]
    settle: Callable[[Path, str], object] = lambda folder, name: None  # makes hashes fit


def _package(folder: Path) -> None:
    shutil.copytree(PACKAGE, folder, dirs_exist_ok=True)


def _fit(folder: Path, name: str) -> None:
    """Give the manifest the hash of a damaged file."""
    table = json.loads((folder / MANIFEST).read_bytes())
    table["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(table))


def _read_package(folder: Path) -> None:
    package = open_package(folder)
    state, manifest = package.initial_state(), package.manifest
    for rung in package.ladder():
        manifest.token_blocks(rung)
        predicted_peak_bytes(manifest, rung, 1 << 26)
        package.rungs_with_keep_ratio(rung.keep_ratio)
    for step in (1, 50, 100):
        hyper_parameters(manifest.hyper_parameters, step, steps_per_epoch=10, total_steps=100)
    if manifest.merge is None:
        for _ in onnx_chunks(package, encoder_weights(package, state)):
            pass


def _run(folder: Path) -> None:
    package, engine = open_package(PACKAGE), create_engine("ort", threads=1)
    images = 4 * package.manifest.batch_size
    options = TrainingOptions(
        engine=engine,
        epochs=1,
        rungs=((1, package.manifest.rungs[-1].id),),
        images_per_epoch=images,
        checkpoint_every_s=0.0,
    )
    for _ in train(package, open_source("digits"), folder / "run", options):
        pass
    with (folder / "run/power.jsonl").open("w") as lines:
        for number in range(30):
            lines.write(json.dumps(unstructure(_sample(number))) + "\n")


def _sample(number: int) -> PowerRecord:
    return PowerRecord(
        process=1,
        t_s=number / 10,
        total_w=5.0,
        energy_j=number / 2,
        rails_w={"VDD_IN": 5.0, "CPU": None},
        temperature_c=50.0,
        throttled=False,
        cpu_hz=1.5e9,
        gpu_hz=None,
        gpu_load=0.5,
    )


def _read_run(folder: Path) -> None:
    run, package = open_run(folder / "run"), open_package(PACKAGE)
    report, _ = summarize([run.path])
    csv_files(report)
    json.dumps(unstructure(report))
    follower, show = Follower(run), Progress(run.path, StringIO())
    follower.poll()
    panel_text(follower.status, run.path, width=100, height=40)
    list(metrics_of(follower.status))
    for event in Replay(run).poll():
        event_text(event)
        show(event)
    run.spending(run.totals())
    run.newest_checkpoint(expected=package.expected_state())
    for path in checkpoint_paths(run.path / "checkpoints"):
        load_checkpoint(
            path,
            package_digest=package.digest,
            steps_file=run.path / "steps.jsonl",
            expected=package.expected_state(),
        )


def _fit_checkpoint(folder: Path, name: str) -> None:
    state = folder / name
    if state.suffix == ".safetensors":
        info = state.with_name("checkpoint.json")
        table = json.loads(info.read_bytes())
        table["state_sha256"] = hashlib.sha256(state.read_bytes()).hexdigest()
        info.write_text(json.dumps(table))


def _profile(folder: Path) -> None:
    package = open_package(PACKAGE)
    manifest = package.manifest
    costs = [
        RungCost(
            rung=rung.id,
            token_blocks=manifest.token_blocks(rung),
            flops=rung.flops,
            step_s=0.1 + index / 100,
            step_s_low=0.05,
            step_s_high=0.5,
            step_j=1.0,
            power_w=9.0,
            peak_bytes=100 << 20,
            predicted_peak_bytes=None,
            source="measured",
            micro_batch=rung.micro_batch,
        )
        for index, rung in enumerate(manifest.rungs)
    ]
    profile = CostProfile(
        format=1,
        created_at="2030-01-01T00:00:00+00:00",
        package_digest=package.digest,
        board="a-board",
        power_mode=None,
        engine="ort",
        runtime="onnxruntime 1",
        threads=2,
        cpus=2.0,
        sensor="ina3221",
        calibration={"VDD_IN": {"gain": 1.0, "offset_w": 0.0}},
        energy_is_estimate=False,
        idle_w=3.0,
        baseline_bytes=1 << 26,
        startup_s=1.0,
        switch_s=0.2,
        checkpoint_s=0.2,
        checkpoint_j=1.0,
        rungs=tuple(costs),
    )
    save_profile(profile, folder / "profile.json")


def _read_profile(folder: Path) -> None:
    path, package = folder / "profile.json", open_package(PACKAGE)
    profile = load_profile(path)
    for cost in profile.rungs:
        package.rung(cost.rung)
        cost.text(is_estimate=False)
    check_package(profile, package, str(path))
    work = Workload(costs=interpolate(profile.rungs), steps=100, overhead=overhead_of(profile))
    for budget in (Budget(), Budget(energy_j=150.0), Budget(time_s=30.0)):
        make_plan(work.costs, budget, steps=100, overhead=work.overhead, steps_per_epoch=10)


def _boards(folder: Path) -> None:
    for path in (ROOT / "profiles").glob("*.toml"):
        shutil.copy(path, folder)


def _read_boards(folder: Path) -> None:
    for path in sorted(folder.glob("*.toml")):
        load_board(path)


def _read_recipe(folder: Path) -> None:
    from edge_export.recipe import make_recipe, read_recipe

    recipe = make_recipe(read_recipe(folder / RECIPE.name), where="recipe")
    recipe.rungs()
    recipe.optimizer_curves(has_teacher=True)


def _trace(folder: Path) -> None:
    lines = [{"t_s": t / 10, "rails_w": {"VDD_IN": 5.0, "CPU": None}} for t in range(20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "trace.jsonl").write_text(text)


def _read_trace(folder: Path) -> None:
    ReplaySensor(read_trace(folder / "trace.jsonl"), total=["VDD_IN"]).read()


def _pictures(folder: Path) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for kind in ("png", "jpg", "webp", "tiff", "bmp", "ppm"):
        cv2.imwrite(str(folder / f"picture.{kind}"), tile)


def _read_pictures(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        try:
            header_of(path.read_bytes())
        except UnreadablePicture:
            continue


def _tar(folder: Path) -> None:
    _pictures(folder)
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for path in sorted(folder.glob("picture.*")):
            content = path.read_bytes()
            entry = tarfile.TarInfo(f"{path.suffix[1:]}/{path.name}")
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
            path.unlink()


def _read_tar(folder: Path) -> None:
    source = open_source(str(folder / "pictures.tar"))
    assert isinstance(source, PictureFiles)
    for index in range(len(source)):
        source.key(index)
        try:
            with source.open(index):
                pass
        except UnreadablePicture:
            continue


_in_package = partial(Reader, make=_package, read=_read_package, settle=_fit)

READERS = {
    "manifest": Reader(_package, MANIFEST, _read_package),
    "state": _in_package(files="state.safetensors"),
    "graphs": _in_package(files="graphs/**/*.onnx"),
    "training graphs": _in_package(files="ort_training/**/*.onnx"),
    "run": Reader(_run, "run/run.json", _read_run),
    "steps": Reader(_run, "run/steps.jsonl", _read_run),
    "events": Reader(_run, "run/events.jsonl", _read_run),
    "power": Reader(_run, "run/power.jsonl", _read_run),
    "checkpoint": Reader(_run, "run/checkpoints/*/*.json", _read_run),
    "checkpoint state": Reader(
        _run, "run/checkpoints/*/*.safetensors", _read_run, _fit_checkpoint
    ),
    "profile": Reader(_profile, "profile.json", _read_profile),
    "board": Reader(_boards, "*.toml", _read_boards),
    "recipe": Reader(lambda folder: shutil.copy(RECIPE, folder), "*.toml", _read_recipe),
    "trace": Reader(_trace, "trace.jsonl", _read_trace),
    "picture headers": Reader(_pictures, "picture.*", _read_pictures),
    "tar": Reader(_tar, "pictures.tar", _read_tar),
}
