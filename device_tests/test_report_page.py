"""The page of `edge-train report` in a real browser."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests.browser import Browser, open_browser
from edge_runtime.report import render_page, summarize

sys.path.append(str(Path(__file__).parents[1] / "tests"))
made = importlib.import_module("report_runs")

PICTURES = os.environ.get("EDGE_TRAIN_TEST_PICTURES")  # a folder that keeps screenshots
EVERY_FIGURE = "[...document.querySelectorAll('.plot')]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    runs = {name: make() for name, make in made.RUNS.items()}
    folders = {name: run.write(folder / name) for name, run in runs.items()}
    written = {}
    for name, paths in {"one": ["resumed"], "several": list(folders)}.items():
        report, series = summarize([folders[path] for path in paths])
        written[name] = folder / f"{name}.html"
        written[name].write_text(render_page(report, series))
    return written


def keep_picture(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.picture(Path(PICTURES) / f"{name}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width_px", [1280, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["one", "several"])
def test_every_figure_is_drawn_without_console_errors(
    name: str, width_px: int, dark: bool, browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(pages[name], width_px=width_px, dark=dark)
    keep_picture(browser, f"{name}-{width_px}-{'dark' if dark else 'light'}")
    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()]  # nothing but itself
    marks = "'.scatterlayer .js-line, .scatterlayer .point, .barlayer .point path'"
    drawn = browser.value(f"{EVERY_FIGURE}.map(p => p.querySelectorAll({marks}).length)")
    assert len(drawn) >= 8
    assert all(count > 0 for count in drawn)
    assert browser.value(f"{EVERY_FIGURE}.every(plot => plot.querySelector('.main-svg'))")


@pytest.mark.parametrize("name", ["one", "several"])
def test_nothing_is_wider_than_a_phone(
    name: str, browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(pages[name], width_px=390)
    assert browser.value("document.documentElement.scrollWidth") <= 390
    widths = browser.value(f"{EVERY_FIGURE}.map(p => p.getBoundingClientRect().right)")
    inner = browser.value(
        f"{EVERY_FIGURE}.map(p => p.querySelector('.main-svg').getBoundingClientRect().right)"
    )
    assert max(widths) <= 390
    assert max(inner) <= 390


@pytest.mark.parametrize("width_px", [1280, 390], ids=["desktop", "phone"])
def test_a_table_that_is_too_wide_says_so(
    width_px: int, browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(pages["one"], width_px=width_px)
    tables = "[...document.querySelectorAll('.scroll')]"
    too_wide = f"{tables}.map(t => t.scrollWidth > t.clientWidth + 1)"
    says_so = f"{tables}.map(t => getComputedStyle(t, '::before').content.includes('Scroll'))"
    assert browser.value(says_so) == browser.value(too_wide)
    assert any(browser.value(says_so)) == (width_px == 390)


def ink(browser: Browser) -> str:
    return str(browser.value("document.querySelector('.plot .xtick text').style.fill"))


def test_figures_follow_the_colours_of_the_system(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(pages["one"], width_px=1280)
    light = ink(browser)
    browser.prefer("dark")
    browser.value("new Promise(done => setTimeout(done, 1500, 1))")
    dark = ink(browser)
    assert light == "rgb(28, 32, 38)"
    assert dark == "rgb(231, 234, 238)"


def test_a_rail_can_be_hidden_and_time_zoomed(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(pages["one"], width_px=1280)
    plot = "document.getElementById('plot-power-0')"
    names = browser.value(f"{plot}.data.map(trace => trace.name)")
    rail = names.index("VDD_SOC")
    assert browser.value(f"{plot}.data[{rail}].visible ?? true") is True
    where = browser.value(
        f"(() => {{ {plot}.scrollIntoView(); const box = [...{plot}.querySelectorAll("
        "'.legendtoggle')][1].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    click(browser, *where)
    browser.value("new Promise(done => setTimeout(done, 1500, 1))")
    assert browser.value(f"{plot}.data[{rail}].visible") == "legendonly"

    before = browser.value(f"{plot}.layout.xaxis.range")
    box = browser.value(
        f"(() => {{ const b = {plot}.querySelector('.nsewdrag').getBoundingClientRect();"
        "return [b.x, b.y, b.width, b.height]; })()"
    )
    x, y, width, height = box
    drag(browser, (x + width / 4, y + height / 4), (x + width / 2, y + height * 3 / 4))
    browser.value("new Promise(done => setTimeout(done, 1500, 1))")
    after = browser.value(f"{plot}.layout.xaxis.range")
    assert after[1] - after[0] == pytest.approx((before[1] - before[0]) / 4, rel=0.1)
    second_row = browser.value(f"{plot}.layout.xaxis2.range")
    assert second_row == pytest.approx(after)


def mouse(browser: Browser, kind: str, x: float, y: float, buttons: int) -> None:
    browser.call(
        "Input.dispatchMouseEvent",
        type=kind,
        x=x,
        y=y,
        button="left",
        buttons=buttons,
        clickCount=1,
    )


def click(browser: Browser, x: float, y: float) -> None:
    mouse(browser, "mouseMoved", x, y, 0)
    mouse(browser, "mousePressed", x, y, 1)
    mouse(browser, "mouseReleased", x, y, 0)


def drag(browser: Browser, begin: tuple[float, float], end: tuple[float, float]) -> None:
    mouse(browser, "mouseMoved", *begin, 0)
    mouse(browser, "mousePressed", *begin, 1)
    for share in (0.3, 0.6, 1.0):
        x, y = (a + share * (b - a) for a, b in zip(begin, end, strict=True))
        mouse(browser, "mouseMoved", x, y, 1)
    mouse(browser, "mouseReleased", *end, 0)


def test_every_figure_says_in_words_what_it_shows(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(pages["several"], width_px=1280)
    labels = browser.value(f"{EVERY_FIGURE}.map(p => p.getAttribute('aria-label'))")
    assert all(len(label) > 30 for label in labels)
    assert len(set(labels)) == len(labels)
    assert browser.value("[...document.querySelectorAll('table')].every(t => t.caption)")


def test_on_paper_nothing_is_side_by_side(browser: Browser, pages: dict[str, Path]) -> None:
    """Figures keep the width that they had on the screen, and would overlap."""
    browser.show(pages["several"], width_px=1280)
    columns = (
        "Math.max(...[...document.querySelectorAll('.side')].map(side => "
        "new Set([...side.children].map(part => part.getBoundingClientRect().left)).size))"
    )
    assert browser.value(columns) > 1
    browser.prefer("light", media="print")
    assert browser.value(columns) == 1


def test_it_prints_in_light_colours(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["one"], width_px=1280, dark=True)
    printed = browser.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
    assert len(printed["data"]) > 10_000
    if PICTURES:
        from base64 import b64decode

        (Path(PICTURES) / "print.pdf").write_bytes(b64decode(printed["data"]))
    browser.value("dispatchEvent(new Event('beforeprint'))")
    browser.value("new Promise(done => setTimeout(done, 1500, 1))")
    assert ink(browser) == "rgb(28, 32, 38)"
    browser.value("dispatchEvent(new Event('afterprint'))")
    browser.value("new Promise(done => setTimeout(done, 1500, 1))")
    assert ink(browser) == "rgb(231, 234, 238)"
