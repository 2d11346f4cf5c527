"""The top of the page: what was trained, what it took, what to know before believing it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edge_runtime.report.html import number, with_unit
from edge_runtime.report.marks import mark_of

Row = Mapping[str, Any]

_METHODS = {
    "simclr": "SimCLR",
    "mocov3": "MoCo v3",
    "byol": "BYOL",
    "dino": "DINO",
    "simsiam": "SimSiam",
    "vicreg": "VICReg",
    "barlow-twins": "Barlow Twins",
    "mae": "MAE",
}
_CARDS: Sequence[tuple[str, str, str]] = (  # title, field of totals, smaller field below
    ("energy, gross", "gross_j", "mean_w"),
    ("energy above idle", "net_j", "idle_j"),
    ("per image", "energy_per_image_j", "images_per_j"),
    ("per epoch", "energy_per_epoch_j", "epochs"),
    ("time", "time_s", "images_per_s"),
    ("peak memory", "peak_bytes", "memory limit"),
    ("hottest", "peak_temperature_c", "throttled"),
    ("loss, last epoch", "last_loss", "first_loss"),
)
_BELOW = {  # how the smaller number is introduced
    "mean_w": "{} on average",
    "idle_j": "idle board {}",
    "images_per_j": "{}",
    "epochs": "{} epochs",
    "images_per_s": "{}",
    "memory limit": "limit {}",
    "throttled": "throttled: {}",
    "first_loss": "first step {}",
}
_SAME = 0.0005  # relative; less is not told
_SIDE = (  # rows of the table of several runs
    ("time", "time_s"),
    ("steps", "steps"),
    ("images", "images"),
    ("speed", "images_per_s"),
    ("energy, gross", "gross_j"),
    ("energy, net", "net_j"),
    ("mean power", "mean_w"),
    ("energy per image", "energy_per_image_j"),
    ("images per joule", "images_per_j"),
    ("energy per epoch", "energy_per_epoch_j"),
    ("peak memory", "peak_bytes"),
    ("hottest", "peak_temperature_c"),
    ("loss, last epoch", "last_loss"),
)
_KINDS = {
    "estimate": "≈ Estimate.",
    "damaged": "Damaged.",
    "missing": "Unknown.",
    "lost": "Resumed.",
    "comparison": "Comparison.",
}


def head(document: Row) -> str:
    """Title, warnings, the answer."""
    runs = document["runs"]
    names = ", ".join(run["name"] for run in runs)
    made = ", ".join(dict.fromkeys(run["created_at"][:10] for run in runs))
    parts = [
        f'<header><p class="soft">Energy report of edge-train, {made}</p>'
        f"<h1>{escape(names)}</h1>"
    ]
    parts += [
        f'<p class="lead">{sentence(run, i, len(runs))}</p>' for i, run in enumerate(runs)
    ]
    parts.append("</header>" + _notes(document))
    parts.append(_cards(runs[0]) if len(runs) == 1 else _beside(document))
    return "".join(parts)


def sentence(run: Row, index: int, count: int) -> str:
    """What was trained, where, how far."""
    trained, totals = run["trained"], run["totals"]
    method = _METHODS.get(trained["method"], trained["method"] or "An unknown method")
    model = trained["model"] or "an unknown model"
    policy = trained["tokens"]
    pruned = f" with token policy {escape(policy)}" if policy and policy != "none" else ""
    board = run["conditions"]["board"] or "an unknown board"
    key = f"runs.{index}"
    name = f"<b>{escape(run['name'])}</b>: " if count > 1 else ""
    limits = [
        f"{use['limit']} {_allowed(f'{key}.budget.{i}', use)}"
        for i, use in enumerate(run["budget"])
    ]
    within = f" within {', '.join(limits)}" if limits else ""
    return (
        f"{name}{escape(method)}{pruned} trained {escape(model)} on "
        f"{escape(trained['source'])}, on the board <b>{escape(board)}</b>{within}: "
        f"{number(f'{key}.totals.steps', totals['steps'])} of "
        f"{number(f'{key}.trained.total_steps', trained['total_steps'])} steps, "
        f"{number(f'{key}.totals.images', totals['images'])} images. "
        f"<b>{escape(run['state'][:1].upper() + run['state'][1:])}.</b>"
    )


def _allowed(key: str, use: Row) -> str:
    text = with_unit(use["allowed"], use["unit"])
    return number(f"{key}.allowed", use["allowed"], text=text)


def _notes(document: Row) -> str:
    several = len(document["runs"]) > 1
    notes = [("", note) for note in document["notes"]]
    notes += [
        (f"{run['name']}: " if several else "", note)
        for run in document["runs"]
        for note in run["notes"]
    ]
    items = "".join(
        f'<li class="{_weight(note)}" data-kind="{note["kind"]}"><b>{_KINDS[note["kind"]]}</b>'
        f"{escape(name + note['text'])}</li>"
        for name, note in notes
    )
    return f'<ul class="notes" aria-label="What to know first">{items}</ul>' if items else ""


def _weight(note: Row) -> str:
    return "plain" if note["kind"] in ("lost", "missing") else "loud"


def _cards(run: Row) -> str:
    cards = [
        _card(title, _total(run, 0, field), _below(run, small))
        for title, field, small in _CARDS
    ]
    if found := _accuracy(run):
        index, row = found
        key = f"runs.0.evaluations.{index}"
        small = number(f"{key}.untrained_accuracy", row["untrained_accuracy"])
        accuracy = number(f"{key}.accuracy", row["accuracy"])
        cards.append(_card(f"{row['classifier']} accuracy", accuracy, f"untrained {small}"))
    return f'<dl class="cards">{"".join(cards)}</dl>'


def _total(run: Row, index: int, field: str) -> str:
    totals = run["totals"]
    mark = mark_of(run, field, totals)
    return number(f"runs.{index}.totals.{field}", totals[field], mark=mark)


def _card(title: str, value: str, below: str) -> str:
    more = f'<dd class="more">{below}</dd>' if below else ""
    return f"<div><dt>{escape(title)}</dt><dd>{value}</dd>{more}</div>"


def _below(run: Row, field: str) -> str:
    if field == "memory limit":
        for index, use in enumerate(run["budget"]):
            if use["limit"] == "memory":
                return _BELOW[field].format(_allowed(f"runs.0.budget.{index}", use))
        return "no limit"
    return "" if run["totals"][field] is None else _BELOW[field].format(_total(run, 0, field))


def _accuracy(run: Row) -> tuple[int, Row] | None:
    """The newest evaluation, kNN before others."""
    found = [
        (i, row) for i, row in enumerate(run["evaluations"]) if row["classifier"] == "kNN"
    ]
    found = found or list(enumerate(run["evaluations"]))
    return found[-1] if found else None


def _beside(document: Row) -> str:
    """A column per run, and how it differs from the first one."""
    runs = document["runs"]
    places = {(d["run"], d["name"]): i for i, d in enumerate(document["differences"])}
    heads = "".join(f'<th scope="col">{escape(run["name"])}</th>' for run in runs)
    rows = []
    for title, field in _SIDE:
        cells = []
        for index, run in enumerate(runs):
            place = places.get((run["name"], field)) if index else None
            cells.append(f"<td>{_total(run, index, field)}{_relative(document, place)}</td>")
        rows.append(f'<tr><th scope="row">{escape(title)}</th>{"".join(cells)}</tr>')
    rows.append(_accuracies(runs))
    caption = f"Side by side; differences from {escape(runs[0]['name'])}"
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Side by side"><table>'
        f"<caption>{caption}</caption><thead><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _relative(document: Row, place: int | None) -> str:
    if place is None or document["differences"][place]["relative"] is None:
        return ""
    relative = document["differences"][place]["relative"]
    if abs(relative) < _SAME:
        return ""
    shown = number(f"differences.{place}.relative", relative)
    return f' <span class="soft">{shown}</span>'


def _accuracies(runs: Sequence[Row]) -> str:
    cells = []
    for index, run in enumerate(runs):
        found = _accuracy(run)
        if found is None:
            cells.append('<td><span class="unknown">not evaluated</span></td>')
            continue
        place, row = found
        value = number(f"runs.{index}.evaluations.{place}.accuracy", row["accuracy"])
        cells.append(f"<td>{value} {escape(row['classifier'])}</td>")
    return f'<tr><th scope="row">accuracy</th>{"".join(cells)}</tr>'
