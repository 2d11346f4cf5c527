"""Names and texts from files reach no terminal and no page as they are."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_runs import FINISHED, RUNG, STARTED, status_of
from report_runs import MadeRun

from edge_runtime.cli.main import main
from edge_runtime.cli.panel_text import panel_text
from edge_runtime.cli.table import aligned
from edge_runtime.printable import printable, printable_lines
from edge_runtime.records import events
from edge_runtime.records.event_text import event_text

HOSTILE = "a\x1b]0;owned\x07\x1b[2Jb\nedge-train: all is well\r\u202egnp.\u2028\udcffc"
SHOWN = r"a\x1b]0;owned\x07\x1b[2Jb\nedge-train: all is well\r\u202egnp.\u2028\xffc"


def test_a_hostile_name_is_shown_escaped() -> None:
    assert printable(HOSTILE) == SHOWN


@given(st.text(st.characters()))
def test_everything_is_printable_and_printable_text_stays(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert all(line.isprintable() for line in printable_lines(text).split("\n"))
    assert not text.isprintable() or printable(text) == text


@pytest.mark.parametrize(
    "event",
    [
        events.PictureSkipped(step=1, picture=HOSTILE, reason=HOSTILE),
        replace(RUNG, rung=HOSTILE, reason=HOSTILE),
        events.SensorLost(step=1, sensor=HOSTILE, reason=HOSTILE),
        replace(FINISHED, stopped_by="memory", reason=HOSTILE),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_is_one_printable_line(event: events.Event) -> None:
    text = event_text(event, Path(HOSTILE))
    assert text.isprintable()
    assert SHOWN in text


def test_the_panel_is_printable() -> None:
    changed = replace(RUNG, rung=HOSTILE, reason=HOSTILE)
    status = status_of(STARTED, changed, sensor=HOSTILE)
    for line in panel_text(status, Path(HOSTILE), width=199, height=40):
        assert line.plain.isprintable()


def test_markup_in_a_name_is_not_read() -> None:
    (line, *_) = panel_text(status_of(), Path("[red]run[/red]"), width=99, height=9)
    assert line.plain.startswith("[red]run[/red]  ")


def test_a_table_keeps_its_rows() -> None:
    (line,) = aligned([(HOSTILE, "x")])
    assert line == f"{SHOWN}  x"


def test_an_error_and_a_warning_are_printable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert main(["inspect", str(tmp_path / "a\x1b[2J\u202e")]) == 3
    assert r"a\x1b[2J\u202e is not a training package" in capsys.readouterr().err
    logging.getLogger("edge_runtime.test").warning("skipped %s", "a\x1b[2J")
    assert capsys.readouterr().err == "edge-train: skipped a\\x1b[2J\n"


def test_the_page_is_printable(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="makes a page")
    from edge_runtime.report import render_page, summarize

    run = MadeRun()
    run.sampled(1, [(0.0, 10.0), (10.0, 10.0)])
    run.stepped(1, range(1, 11), begin_s=0.0)
    hostile = HOSTILE.replace("\udcff", "")  # no JSON file of ours may hold it
    run.info |= {"source": hostile, "board": hostile, "package_path": hostile}
    for step in run.steps:
        step["rung"] = hostile
    folder = tmp_path / "a\u202eb\x1bc"
    run.write(folder)
    report, series = summarize([folder])
    page = render_page(report, series)
    ours = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, flags=re.S)
    assert all(line.isprintable() for line in ours.split("\n"))
    assert printable(hostile) in ours
    figures = re.findall(r"<script type=\"application/json\".*?>(.*?)</script>", page)
    assert len(figures) > 4
    assert not any(re.search(r"(?<!\\)\\u(001b|202e|2028)", figure) for figure in figures)
    page.encode()
