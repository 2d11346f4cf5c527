"""Run folders, read, into one `Report`: every run by itself, then beside the first one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.report.recorded import read_run
from edge_runtime.report.series import RunSeries, series_of
from edge_runtime.report.summarising import summarise_run
from edge_runtime.report.summary import FORMAT, Difference, Note, Report, RunSummary
from edge_runtime.report.timeline import timeline_of
from edge_runtime.version import __version__

_COMPARED = {  # what is compared, and its unit
    "time_s": "s",
    "steps": "steps",
    "images": "images",
    "images_per_s": "images/s",
    "gross_j": "J",
    "net_j": "J",
    "mean_w": "W",
    "energy_per_image_j": "J/image",
    "images_per_j": "images/J",
    "energy_per_epoch_j": "J/epoch",
    "peak_bytes": "bytes",
    "peak_temperature_c": "C",
    "last_loss": "",
}


def summarise(paths: Sequence[Path]) -> tuple[Report, tuple[RunSeries, ...]]:
    """All numbers of a report, and the lines of its figures, one run after the other.

    Raises:
        RecordsError: one of them is no run folder, of an unknown format, or damaged.
    """
    runs, series = [], []
    for path, name in zip(paths, names_of(paths), strict=True):
        recorded = read_run(path)  # large, and forgotten before the next one
        timeline = timeline_of(recorded)
        runs.append(summarise_run(recorded, timeline, name))
        series.append(series_of(recorded, timeline))
    report = Report(
        format=FORMAT,
        made_by=f"edge-train {__version__}",
        notes=tuple(_notes(runs)),
        runs=tuple(runs),
        differences=tuple(row for run in runs[1:] for row in _differences(runs[0], run)),
    )
    return report, tuple(series)


def names_of(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, with the part before it where two are the same."""
    paths = [path.resolve() for path in paths]
    count = Counter(path.name for path in paths)
    names = [
        path.name if count[path.name] == 1 else f"{path.parent.name}/{path.name}"
        for path in paths
    ]
    again = Counter(names)
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if again[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def _notes(runs: Sequence[RunSummary]) -> list[Note]:
    """What stands in the way of comparing the runs."""
    if len(runs) < 2:
        return []
    first, *others = runs
    notes = []
    foreign = [r for r in others if r.trained.package_digest != first.trained.package_digest]
    if foreign:
        notes.append(
            f"Not comparable: {_listed(foreign)} trained another package than {first.name}. "
            "Loss, accuracy and cost per image are those of different trainings."
        )
    boards = [r for r in others if r.conditions.board != first.conditions.board]
    if boards:
        notes.append(f"{_listed(boards)} ran on another board than {first.name}.")
    if len({run.energy_is_estimate for run in runs}) > 1:
        estimated = [run for run in runs if run.energy_is_estimate]
        notes.append(
            f"The energy of {_listed(estimated)} is an estimate, that of the others is not."
        )
    return [Note(kind="comparison", text=text) for text in notes]


def _listed(runs: Sequence[RunSummary]) -> str:
    return ", ".join(run.name for run in runs)


def _differences(first: RunSummary, run: RunSummary) -> list[Difference]:
    values = [
        (name, unit, getattr(first.totals, name), getattr(run.totals, name))
        for name, unit in _COMPARED.items()
    ]
    values.append(("knn_accuracy", "", _knn(first), _knn(run)))
    return [_difference(run.name, *value) for value in values]


def _knn(run: RunSummary) -> float | None:
    found = [row.accuracy for row in run.evaluations if row.classifier == "kNN"]
    return found[-1] if found else None


def _difference(
    run: str, name: str, unit: str, first: float | None, value: float | None
) -> Difference:
    difference = None if first is None or value is None else value - first
    return Difference(
        run=run,
        name=name,
        unit=unit,
        first=first,
        value=value,
        difference=difference,
        relative=difference / first
        if difference is not None and first and first > 0
        else None,
    )
