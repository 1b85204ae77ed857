"""The page about runs in a real browser: it runs without errors and network, fits a phone, obeys the keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.chrome import Chrome
from browser.test_page import _CONTRAST, EVIL, chrome, complaints, requests
from eval_rows import make_item, make_story, write_run

from vzoom.eval.item import Verdict
from vzoom.eval.run_page import page as page_of
from vzoom.synthetic.spec import SyntheticConfig, make_video
from vzoom.synthetic.video import render

__all__ = ["chrome"]  # the fixture: one browser for this file

RIGHT, WRONG = Verdict("right", said="B"), Verdict("wrong", said="A")
HIT, MISS = (29.0, 33.0), (5.0, 9.0)
SHOWN = "[...document.querySelectorAll('.item')].filter(e => e.checkVisibility()).map(e => e.id).join(' ')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    render(make_video(0, SyntheticConfig(duration_seconds=60, frame_size=56, fps=4)), folder / "0.mp4")
    zoom = [
        (make_item(0), RIGHT, make_story(zooms=[HIT])),
        (make_item(1), WRONG, make_story(zooms=[MISS, (40.0, 44.0)], text="A")),
        (make_item(2), Verdict("unanswered"), make_story(stop="rounds", zooms=[MISS])),
        (make_item(3), Verdict("missing_video", detail="no file 3.mp4"), None),
    ]
    uniform = [(make_item(n), RIGHT if n == 1 else WRONG, make_story(text="A")) for n in range(4)]
    runs = [write_run(folder / "zoom", zoom), write_run(folder / "uniform", uniform, "uniform")]
    out = folder / "page.html"
    out.write_text(page_of(runs, roots=[folder]), encoding="utf-8")
    return out


def enter(chrome: Chrome) -> None:
    """Enter as a typed character: what opens a summary or presses a button waits for one."""
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    chrome.send("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
    chrome.send("Input.dispatchKeyEvent", type="keyUp", **key)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 1400])
def test_it_fits_is_silent_and_can_be_read(chrome: Chrome, page: Path, width: int, dark: bool) -> None:
    chrome.open(page, width=width, dark=dark)
    chrome.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert requests(chrome) == [page.resolve().as_uri()]
    assert complaints(chrome) == []
    assert chrome.evaluate("document.documentElement.scrollWidth") <= width
    assert chrome.evaluate(_CONTRAST) == []


def test_a_count_leads_to_its_trajectories(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1200)
    assert chrome.evaluate(SHOWN) == "lvbench-0 lvbench-1 lvbench-2 lvbench-3"
    chrome.evaluate("document.querySelector('[data-run=\"1\"][data-failure=zoomed_elsewhere]').focus()")
    enter(chrome)
    chrome.wait_for(f"{SHOWN} === 'lvbench-1'")
    assert chrome.evaluate("document.getElementById('shown').textContent") == "1 of 4 shown"
    assert chrome.evaluate("document.querySelector('[name=failure]').value") == "zoomed_elsewhere"
    chrome.evaluate("document.querySelector('[type=reset]').click()")
    chrome.wait_for(f"{SHOWN}.split(' ').length === 4")


def test_filters_narrow_together(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1200)
    tell = """((name, value) => { const e = document.querySelector(`[name=${name}]`);
        if (e.type === 'checkbox') e.checked = value; else e.value = value;
        e.dispatchEvent(new Event('input', { bubbles: true })); })"""
    chrome.evaluate(f"{tell}('differ', true)")
    assert chrome.evaluate(SHOWN) == "lvbench-0 lvbench-1 lvbench-2 lvbench-3"
    chrome.evaluate(f"{tell}('category', 'reasoning')")
    assert chrome.evaluate(SHOWN) == "lvbench-1 lvbench-3"
    chrome.evaluate(f"{tell}('text', 'SCENE 3')")
    assert chrome.evaluate(SHOWN) == "lvbench-3"


def test_the_keyboard_opens_a_trajectory_and_its_frames(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1200)
    chrome.press("Tab")
    assert chrome.evaluate("document.activeElement.className") == "skip"
    chrome.evaluate("document.querySelector('#lvbench-0 summary').focus()")
    enter(chrome)
    chrome.wait_for("document.getElementById('lvbench-0').open")
    chrome.evaluate("document.querySelector('#lvbench-0 .film.z1 .frame').focus()")
    enter(chrome)
    chrome.wait_for("document.getElementById('viewer').open")
    caption = "document.querySelector('#viewer p').textContent"
    assert chrome.evaluate(caption) == "Zoom 1, 29.00 s"
    chrome.press("ArrowRight")
    assert chrome.evaluate(caption) == "Zoom 1, 30.00 s"
    chrome.press("Escape")
    chrome.wait_for("!document.getElementById('viewer').open")
    chrome.wait_for("document.activeElement.getAttribute('aria-label') === 'Zoom 1, 30.00 s'")


def test_an_address_opens_its_question(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1200)
    chrome.evaluate("location.hash = '#lvbench-2'")
    chrome.wait_for("document.getElementById('lvbench-2').open")


def test_points_stand_at_their_accuracy(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1200)
    dots = chrome.evaluate("[...document.querySelectorAll('.plots figure')[0].querySelectorAll('.dot')].map(d => "
                           "[Number(d.getAttribute('cx')), Number(d.getAttribute('cy'))])")  # fmt: skip
    (_, zoom), (_, uniform) = dots
    assert (220 - zoom) / 186 == pytest.approx(1 / 3, abs=0.01)  # the axis is 186 units high, from 220 upwards
    assert (220 - uniform) / 186 == pytest.approx(1 / 4, abs=0.01)


def test_foreign_text_runs_nothing(chrome: Chrome, tmp_path: Path) -> None:
    rows = [(make_item(0, question=EVIL, category=EVIL), Verdict("wrong", said=EVIL), make_story(text=EVIL))]
    out = tmp_path / "evil.html"
    out.write_text(page_of([write_run(tmp_path / "run", rows, model=EVIL)]), encoding="utf-8")
    chrome.open(out, width=400)
    assert chrome.evaluate("document.title") != "hacked"
    assert chrome.evaluate("document.scripts.length") == 1
    assert chrome.evaluate("document.querySelectorAll('img[src=\"x\"]').length") == 0
    assert complaints(chrome) == []
