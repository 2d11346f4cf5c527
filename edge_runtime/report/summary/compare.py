"""Run folders, read, into one `Report`: every run by itself, then beside the first one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_runtime.report.summary.fold import digest_run
from edge_runtime.report.summary.model import FORMAT, Difference, Note, Report, RunSummary
from edge_runtime.report.summary.series import RunSeries, series_of
from edge_runtime.report.summary.summarize import summarize_run
from edge_runtime.report.summary.unknown import minus, ratio
from edge_runtime.version import __version__

_COMPARED = {  # totals that are compared, and their units
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


def summarize(paths: Sequence[Path]) -> tuple[Report, tuple[RunSeries, ...]]:
    """All numbers of a report, and the lines of its figures, one run after the other.

    Raises:
        RecordsError: one of them is no run folder, of an unknown format, or damaged.
    """
    runs, series = [], []
    for path, name in zip(paths, _names(paths), strict=True):
        digest = digest_run(path)
        runs.append(summarize_run(digest, name))
        series.append(series_of(digest))
    report = Report(
        format=FORMAT,
        made_by=f"edge-train {__version__}",
        notes=tuple(Note(kind="comparison", text=text) for text in _warnings(runs)),
        runs=tuple(runs),
        differences=tuple(row for run in runs[1:] for row in _differences(runs[0], run)),
    )
    return report, tuple(series)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, with the part before it where two are the same."""
    paths = [path.resolve() for path in paths]
    count = Counter(path.name for path in paths)
    names = [
        path.name if count[path.name] == 1 else f"{path.parent.name}/{path.name}"
        for path in paths
    ]
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _warnings(runs: Sequence[RunSummary]) -> Iterator[str]:
    """What stands in the way of comparing the runs."""

    def names(chosen: list[RunSummary]) -> str:
        return ", ".join(run.name for run in chosen)

    first, *others = runs
    digest, board = first.trained.package_digest, first.conditions.board
    if foreign := [run for run in others if run.trained.package_digest != digest]:
        yield (
            f"Not comparable: {names(foreign)} trained another package than {first.name}. "
            "Loss, accuracy and cost per image are those of different trainings."
        )
    if elsewhere := [run for run in others if run.conditions.board != board]:
        yield f"{names(elsewhere)} ran on another board than {first.name}."
    estimated = [run for run in runs if run.energy_is_estimate]
    if 0 < len(estimated) < len(runs):
        yield f"The energy of {names(estimated)} is an estimate, that of the others is not."


def _differences(first: RunSummary, run: RunSummary) -> Iterator[Difference]:
    pairs = {
        (name, unit): (getattr(first.totals, name), getattr(run.totals, name))
        for name, unit in _COMPARED.items()
    }
    pairs["knn_accuracy", ""] = _knn_accuracy(first), _knn_accuracy(run)
    for (name, unit), (before, value) in pairs.items():
        difference = minus(value, before)
        yield Difference(
            run=run.name,
            name=name,
            unit=unit,
            first=before,
            value=value,
            difference=difference,
            relative=ratio(difference, max(before or 0.0, 0.0)),
        )


def _knn_accuracy(run: RunSummary) -> float | None:
    """Of the newest evaluation."""
    accuracies = [row.accuracy for row in run.evaluations if row.classifier == "kNN"]
    return accuracies[-1] if accuracies else None
