"""The text of the panel of a run: a pure function of its status and the terminal's size.

A label and a value per line, and a bar if there is a limit. Unknown values and estimates are
marked.
"""

import textwrap
from datetime import datetime
from pathlib import Path

from rich.text import Text

from edge_runtime.facts.devices import CPU
from edge_runtime.live import Status
from edge_runtime.printable import printable
from edge_runtime.records import LoggedEvent, events
from edge_runtime.records.event_text import device_text, event_text, loss_text
from edge_runtime.units import (
    bytes_text,
    duration_text,
    energy_text,
    power_text,
    temperature_text,
)

_LABEL = 13  # columns
_BAR = 16
_BARS_FROM = 72  # columns of the terminal; below, bars are left out
_NEAR = 0.9  # of a limit
_NEWS = 10
_WHY_LINES = 3  # of the governor's reason
_UNKNOWN = "unknown"


def panel_text(status: Status, path: Path, *, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` columns."""
    lines = [
        Text.assemble((printable(str(path)), "bold"), "  ", _state(status)),
        _bar(status.steps_done / status.info.total_steps, width, "green"),
        *_training(status, width),
        *_spending(status, width),
        *_board(status, width),
    ]
    news = _news(status)
    room = min(_NEWS, height - len(lines) - 1)
    if news and room > 0:
        lines += [Text(), *news[-room:]]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _state(status: Status) -> Text:
    match status.ended:
        case None if status.was_killed:
            return Text("killed", "bold red")
        case None if status.paused:
            return Text("pausing", "yellow")
        case None if not status.steps_done and status.last_step is None:
            return Text("starting", "yellow")
        case None:
            return Text("training", "green")
        case events.Finished(stopped_by=None):
            return Text("finished", "green")
        case events.Finished():
            return Text(f"ended by its {status.ended.stopped_by} limit", "yellow")
        case events.Interrupted():
            return Text("stopped", "yellow")
        case events.Diverged():
            return Text("diverged", "bold red")
        case events.EngineFailed(device=device, out_of_memory=True):
            return Text(f"no memory on device {device}", "bold red")
        case events.EngineFailed(device=device):
            return Text(f"device {device} failed", "bold red")
        case events.LimitUnknown(limit=limit):
            return Text(f"its {limit} limit cannot be judged", "bold red")
        case _:
            return Text("no more pictures", "bold red")


def _training(status: Status, width: int) -> list[Text]:
    info, last, pace = status.info, status.last_step, status.pace
    done = f"step {status.steps_done} of {info.total_steps}"
    if last:
        done += f", epoch {last.epoch + 1} of {info.settings.epochs}"
    if status.left_s is not None:
        done += f", {duration_text(status.left_s)} left"
    speed = loss = _UNKNOWN
    if pace.images_per_s is not None:
        speed = f"{pace.images_per_s:.1f} images/s"
    if last:
        loss = f"{loss_text(last)}, lr {last.lr:.2e}"
        if status.epoch_loss is not None:
            loss += f", mean of the last epoch {status.epoch_loss:.4f}"
    return [
        _line("progress", done),
        *_device(status),
        _line("speed", speed),
        _line("loss", loss),
        *_rung(status, width),
    ]


def _device(status: Status) -> list[Text]:
    """The GPU of the present process; nothing on the CPU."""
    at = status.resumed or status.info
    return [] if at.device == CPU else [_line("device", device_text(at.device, at.gpu))]


def _rung(status: Status, width: int) -> list[Text]:
    rung = status.rung
    if rung is None:
        return [_line("rung", _UNKNOWN)]
    since = f"{rung.rung}, keep-ratio {rung.keep_ratio:g}, since step {rung.step}"
    lines = [_line("rung", since)]
    if reason := _reason(status, rung):
        room = max(10, width - _LABEL)
        why = textwrap.wrap(printable(reason), room, max_lines=_WHY_LINES, placeholder=" …")
        lines += [Text(" " * _LABEL + line, "dim") for line in why]
    return lines


def _reason(status: Status, rung: events.RungChanged) -> str | None:
    """Why the run does what it does now."""
    if status.ended is not None:
        return getattr(status.ended, "reason", None)
    return status.paused.reason if status.paused else rung.reason


def _spending(status: Status, width: int) -> list[Text]:
    budget, mark = status.budget, " (estimate)" if status.is_estimate else ""
    time = duration_text(status.spent_s) + " spent"
    if budget.time_s is not None:
        left = duration_text(max(0.0, budget.time_s - status.spent_s))
        time += f", {left} left of {duration_text(budget.time_s)}"
    energy = f"{_UNKNOWN}: {_no_power(status)}"
    if status.spent_j is not None:
        energy = energy_text(status.spent_j) + " spent"
        if budget.energy_j is not None:
            left = energy_text(max(0.0, budget.energy_j - status.spent_j))
            energy += f", {left} left of {energy_text(budget.energy_j)}"
        energy += mark
    return [
        _line("time", time, status.spent_s, budget.time_s, width),
        _line("energy", energy, status.spent_j, budget.energy_j, width),
        _line("power", _power(status, mark)),
    ]


def _power(status: Status, mark: str) -> str:
    limit_w, mean_w = status.budget.power_w, status.mean_w
    parts = [f"{_UNKNOWN}: {_no_power(status)}"]
    if status.power_w is not None:
        parts = [f"{power_text(status.power_w)} now"]
    if mean_w is not None:
        parts.append(f"{power_text(mean_w)} mean")
    if limit_w is not None:
        parts.append(f"at most {power_text(limit_w)}")
    known = status.power_w is not None or mean_w is not None
    return ", ".join(parts) + (mark if known else "")


def _no_power(status: Status) -> str:
    if status.info.sensor is None:
        return "no power sensor"
    if status.sensor_lost:
        return f"{status.sensor_lost.sensor} is lost since step {status.sensor_lost.step}"
    return f"{status.info.sensor} has not reported yet"


def _board(status: Status, width: int) -> list[Text]:
    budget, sample = status.budget, status.sample
    memory = heat = _UNKNOWN
    temperature_c = None if sample is None else sample.temperature_c
    if status.rss_bytes is not None:
        memory = f"{bytes_text(status.rss_bytes)} resident"
        if budget.memory_bytes is not None:
            memory += f", at most {bytes_text(budget.memory_bytes)}"
    if temperature_c is not None:
        heat = temperature_text(temperature_c)
        if budget.temperature_c is not None:
            heat += f", at most {temperature_text(budget.temperature_c)}"
    if sample is not None and sample.throttled:
        heat += ", throttled: the board reduces its clocks to cool down"
    return [
        _line("memory", memory, status.rss_bytes, budget.memory_bytes, width),
        _line("temperature", heat, temperature_c, budget.temperature_c, width),
    ]


def _line(
    label: str,
    text: str,
    value: float | None = None,
    limit: float | None = None,
    width: int = 0,
) -> Text:
    """One line, with a bar at its right end if the value has a limit and it fits."""
    line = Text.assemble((f"{label:<{_LABEL}}", "cyan"), printable(text))
    if value is None or limit is None:
        return line
    share = value / limit
    style = "green" if share < _NEAR else "yellow" if share <= 1 else "red"
    if width < _BARS_FROM:
        line.stylize(style, _LABEL)
        return line
    line.truncate(width - _BAR - 1, overflow="ellipsis", pad=True)
    return line.append(" ").append_text(_bar(share, _BAR, style))


def _bar(share: float, width: int, style: str) -> Text:
    full = round(min(1.0, max(0.0, share)) * width)
    return Text.assemble(("━" * full, style), ("─" * (width - full), "dim"))


def _news(status: Status) -> list[Text]:
    return [
        Text.assemble((_time_of_day(logged), "dim"), f"  {text}")
        for logged in status.news
        if (text := event_text(logged.event))
    ]


def _time_of_day(logged: LoggedEvent) -> str:
    """In the local time zone, for people."""
    try:
        return datetime.fromisoformat(logged.at).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"
