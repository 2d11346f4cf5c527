"""What a reader has to know before the numbers: estimates, gaps, damage, what is missing."""

from edge_runtime.report.recorded import Recorded
from edge_runtime.report.summary import Note, RunSummary
from edge_runtime.units import duration_text, power_text

ESTIMATE, MISSING, DAMAGED, LOST = "estimate", "missing", "damaged", "lost"


def notes_of(recorded: Recorded, summary: RunSummary) -> tuple[Note, ...]:
    """All of them, the gravest first."""
    return tuple(
        Note(kind=kind, text=text)
        for kind, texts in (
            (ESTIMATE, _estimates(summary)),
            (DAMAGED, _damages(recorded)),
            (MISSING, _missing(recorded, summary)),
            (LOST, _lost(summary)),
        )
        for text in texts
    )


def _estimates(run: RunSummary) -> list[str]:
    found, metering = [], run.metering
    if run.energy_is_estimate:
        found.append(
            "No power was measured. Every watt and joule is an estimate from the processor's "
            "load between two powers that the board profile names."
        )
    if run.plan and any(check.is_estimate for check in run.plan):
        found.append("The joules of the plan are from a cost profile that estimated them.")
    if metering.gap_s > 0:
        found.append(
            f"For {duration_text(metering.gap_s)} there were no readings of power; it was "
            "taken as a straight line between the readings before and after."
        )
    if metering.before_s > 0:
        found.append(
            f"Before the first reading, {duration_text(metering.before_s)} were counted at "
            "the power of that reading."
        )
    return found


def _damages(recorded: Recorded) -> list[str]:
    return [
        f"{name} ends in the middle of a line, which was passed over: a process was killed "
        "or the disk was full."
        for name in recorded.cut_files
    ]


def _missing(recorded: Recorded, run: RunSummary) -> list[str]:
    found, metering = [], run.metering
    if not run.totals.steps:
        found.append("No training step is recorded yet.")
    if not metering.known_samples:
        because = "" if run.conditions.sensor else ": there is no power sensor"
        found.append(f"Power and energy are unknown{because}.")
    elif run.totals.gross_j is None:
        unknown = [str(p.process) for p in run.processes if p.gross_j is None]
        found.append(
            "Energy of the whole run is unknown: nothing measured the power of process "
            f"{', '.join(unknown)}."
        )
    elif run.energy_is_incomplete:
        found.append(
            f"For {duration_text(metering.after_s)} at the end there were no readings of "
            "power: joules of that time are not counted, and totals are more than shown."
        )
    if metering.known_samples and run.conditions.idle_w is None:
        found.append("The idle power is unknown, so net energy is, too.")
    if (net_j := run.totals.net_j) is not None and net_j < 0:
        found.append(
            f"The idle power, {power_text(run.conditions.idle_w or 0.0)}, is more than the "
            "run drew on average: something else was busy when it was measured. Net energy "
            "and the idle board's share mean nothing here."
        )
    if recorded.manifest is None:
        found.append(
            f"The package is not at {run.trained.package_path} any more, or was changed: "
            "method and model are unknown."
        )
    if run.state == "unfinished":
        found.append("The run has not ended: it goes on, or was killed.")
    return found


def _lost(run: RunSummary) -> list[str]:
    if len(run.processes) < 2:
        return []
    text = (
        f"{len(run.processes)} processes worked on this run. They are shown one after the "
        "other; the time between them is left out."
    )
    if run.totals.lost_s > 0:
        lost = duration_text(run.totals.lost_s)
        text += f" {lost} were spent on work that had to be done again."
    return [text]
