"""What a reader has to know before the numbers: estimates, gaps, damage, what is missing."""

from collections.abc import Iterator

from edge_runtime.facts.budget import LIMITS, over_text
from edge_runtime.records.event_text import device_text
from edge_runtime.records.events import Resumed
from edge_runtime.report.summary.digest import RunDigest
from edge_runtime.report.summary.model import Note, RunSummary
from edge_runtime.units import duration_text, power_text


def notes_of(digest: RunDigest, run: RunSummary) -> tuple[Note, ...]:
    """All of them, the gravest first."""
    texts = {
        "estimate": _estimates(run),
        "damaged": _damages(digest),
        "limit": _exceeded(run),
        "missing": _missing(digest, run),
        "mixed": _mixed(digest),
        "lost": _lost(run),
    }
    return tuple(Note(kind=kind, text=text) for kind in texts for text in texts[kind])


def _estimates(run: RunSummary) -> Iterator[str]:
    metering = run.metering
    if run.energy_is_estimate:
        yield (
            "No power was measured. Every watt and joule is an estimate from the processor's "
            "load between two powers that the board profile names."
        )
    if any(row.is_estimate for row in run.plan):
        yield "The joules of the plan are from a cost profile that estimated them."
    if metering.gap_s > 0:
        yield (
            f"For {duration_text(metering.gap_s)} there were no readings of power; it was "
            "taken as a straight line between the readings before and after."
        )
    if metering.before_s > 0:
        yield (
            f"Before the first reading, {duration_text(metering.before_s)} were counted at "
            "the power of that reading."
        )


def _damages(digest: RunDigest) -> Iterator[str]:
    for name in digest.cut_files:
        yield (
            f"{name} ends in the middle of a line, which was skipped: a process was killed "
            "or the disk was full."
        )
    for name, lines in digest.zeroed_lines.items():
        if lines:
            yield (
                f"{name} has NULs in {len(lines)} line(s), first in line {lines[0]}, as after "
                "a power cut; what they held is lost, and left out."
            )


def _exceeded(run: RunSummary) -> Iterator[str]:
    limits = {limit.name: limit for limit in LIMITS}
    for use in run.budget:
        if use.used is not None and use.kept is False:
            over = over_text(limits[use.limit], use.used, use.allowed)
            yield f"The limit on {use.limit} was not kept: {over}."


def _missing(digest: RunDigest, run: RunSummary) -> Iterator[str]:
    totals, metering, idle_w = run.totals, run.metering, run.conditions.idle_w
    if not totals.steps:
        yield "No training step is recorded yet."
    if not metering.known_samples:
        because = "" if run.conditions.sensor else ": there is no power sensor"
        yield f"Power and energy are unknown{because}."
    elif totals.gross_j is None:
        unknown = [str(p.process) for p in run.processes if p.gross_j is None]
        yield (
            "Energy of the whole run is unknown: nothing measured the power of process "
            f"{', '.join(unknown)}."
        )
    elif run.energy_is_incomplete:
        yield (
            f"For {duration_text(metering.after_s)} at the end there were no readings of "
            "power: joules of that time are not counted, and totals are more than shown."
        )
    if metering.known_samples and idle_w is None:
        yield "The idle power is unknown, so net energy is, too."
    if totals.net_j is not None and totals.net_j < 0:
        yield (
            f"The idle power, {power_text(idle_w or 0.0)}, is more than the run drew on "
            "average: something else was busy when it was measured. Net energy and the idle "
            "board's share mean nothing here."
        )
    if digest.manifest is None:
        yield (
            f"The package is not at {run.trained.package_path} any more, or was changed: "
            "method and model are unknown."
        )
    if run.state == "unfinished":
        yield "The run has not ended: it goes on, or was killed."


def _mixed(digest: RunDigest) -> Iterator[str]:
    resumed = [event for _, _, event in digest.events if isinstance(event, Resumed)]
    first = digest.run.info
    began = [(first.device, first.gpu), *((each.device, each.gpu) for each in resumed)]
    devices = [device_text(*each) for each in dict.fromkeys(began)]
    if len(devices) > 1:
        yield (
            f"Processes of this run trained on {' and on '.join(devices)}: what a step of a "
            "rung costs is the mean over all of them."
        )


def _lost(run: RunSummary) -> Iterator[str]:
    if len(run.processes) < 2:
        return
    lost = ""
    if run.totals.lost_s > 0:
        spent = duration_text(run.totals.lost_s)
        lost = f" {spent} were spent on work that had to be done again."
    yield (
        f"{len(run.processes)} processes worked on this run. They are shown one after the "
        f"other; the time between them is left out.{lost}"
    )
