"""The report in a real browser: it runs without errors and without the network, fits a phone, obeys the keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser.chrome import Chrome, find_chromium
from browser.sample import make_result

from vzoom.report import Report

EVIL = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    executable = find_chromium()
    if executable is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed: apt-get install chromium", pytrace=False)
        pytest.skip("chromium is not installed: apt-get install chromium")
    browser = Chrome(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = make_result(num_glance=24)
    return Report(result).save(tmp_path_factory.mktemp("report") / "report.html")


def complaints(chrome: Chrome) -> list[object]:
    """Errors and warnings of console, script and security policy."""
    wanted = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Audits.issueAdded")
    return [event["params"] for event in chrome.events if event.get("method") in wanted]


def requests(chrome: Chrome) -> list[str]:
    """Addresses that the page asked for; data: is no request to anybody."""
    asked = [e["params"]["request"]["url"] for e in chrome.events if e.get("method") == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith("data:")]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 400, 1400])
def test_it_fits_and_is_silent(chrome: Chrome, page: Path, width: int, dark: bool) -> None:
    chrome.open(page, width=width, dark=dark)
    assert requests(chrome) == [page.resolve().as_uri()]
    assert complaints(chrome) == []
    assert chrome.evaluate("document.documentElement.scrollWidth") <= width
    cut = chrome.evaluate(
        """[...document.querySelectorAll("h1, h2, p, li, text, .written, .answer")].filter(e => {
             const box = e.getBoundingClientRect();
             return box.width && (box.right > innerWidth + 1 || box.left < -1);
           }).map(e => e.className.baseVal ?? e.className + " " + e.textContent.slice(0, 40))"""
    )
    assert cut == []


def test_what_matters_can_be_seen(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1000)
    for selector in (
        "h1",
        ".answer",
        ".chip.good",
        ".strip img",
        ".track .tick",
        ".track .span",
        ".written",
        ".bars i",
        "table",
    ):
        visible = f"""(() => {{ const e = document.querySelector({selector!r});
            const box = e.getBoundingClientRect();
            return e.checkVisibility() && (box.width > 0 || box.height > 0); }})()"""
        assert chrome.evaluate(visible), selector
    loaded = "[...document.images].filter(i => i.closest('main')).every(i => i.complete && i.naturalWidth > 0)"
    assert chrome.evaluate(loaded)
    assert chrome.evaluate("document.querySelectorAll('.frame').length") == 24 + 16 + 12


def test_marks_stand_over_their_place_in_the_video(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1000)
    place = """(() => { const track = document.querySelector(".track").getBoundingClientRect();
        const span = document.querySelector(".track .span").getBoundingClientRect();
        return [(span.left - track.left) / track.width, span.width / track.width]; })()"""
    left, width = chrome.evaluate(place)
    assert left == pytest.approx(40 / 126, abs=0.005)
    assert width == pytest.approx(4 / 126, abs=0.005)


def test_light_and_dark_can_be_read(chrome: Chrome, page: Path) -> None:
    """WCAG contrast of every text against the background behind it, at least 4.5."""
    for dark in (False, True):
        chrome.open(page, width=1000, dark=dark)
        faint = chrome.evaluate(_CONTRAST)
        assert faint == [], f"dark={dark}"
        assert chrome.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(17, 19, 24)" if dark else "rgb(251, 251, 249)"
        )


def test_the_keyboard_reaches_everything(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1000)
    seen: list[str] = []
    for _ in range(4):
        chrome.press("Tab")
        seen.append(
            chrome.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.className")
        )
    assert seen[0] == "skip"
    assert seen[1].startswith("Glance frame 1 of 24: 0.00 s")
    assert seen[2].startswith("Zoom 1: 40.00–44.00 s")
    assert seen[3].startswith("Zoom 2: 120.00–126.00 s")

    chrome.evaluate("document.querySelector('.mark').focus()")
    chrome.press("ArrowRight")
    chrome.press("ArrowRight")
    readout = "document.getElementById('readout').textContent"
    assert chrome.evaluate(readout) == "Glance frame 3 of 24: 10.50 s (0:10.5)"
    chrome.press("End")
    assert chrome.evaluate(readout).startswith("Glance frame 24 of 24: 120.75 s")
    chrome.evaluate("document.activeElement.blur()")
    assert "zoom: follow it" in chrome.evaluate(readout)


def test_hovering_a_zoom_tells_its_times(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1000)
    x, y = chrome.evaluate(
        """(() => { document.querySelector(".track").scrollIntoView();
           const box = document.querySelector(".track .span").getBoundingClientRect();
           return [box.left + box.width / 2, box.top + box.height / 2]; })()"""
    )
    chrome.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    readout = chrome.evaluate("document.getElementById('readout').textContent")
    assert readout == "Zoom 1: 40.00–44.00 s (0:40 to 0:44), 16 frames at 4 fps"


def test_a_frame_opens_large_and_can_be_leafed_through(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=1000)
    chrome.evaluate("document.querySelector('#zoom-1 .frame').click()")
    caption = "document.querySelector('#viewer p').textContent"
    assert chrome.evaluate("document.getElementById('viewer').open")
    assert chrome.evaluate(caption) == "Zoom 1, frame 1 of 16 at 40.00 s"
    chrome.press("ArrowRight")
    assert chrome.evaluate(caption) == "Zoom 1, frame 2 of 16 at 40.25 s"
    chrome.press("ArrowLeft")
    chrome.press("ArrowLeft")  # the first frame has none before it
    assert chrome.evaluate(caption) == "Zoom 1, frame 1 of 16 at 40.00 s"
    chrome.press("Escape")
    chrome.wait_for("!document.getElementById('viewer').open")
    chrome.wait_for("document.activeElement.getAttribute('aria-label') === 'Zoom 1, frame 1 of 16 at 40.00 s'")


def test_foreign_text_runs_nothing(chrome: Chrome, tmp_path: Path) -> None:
    result = make_result(question=EVIL, thought=EVIL, answer=EVIL, path=f"/videos/{EVIL.replace('/', '_')}.mp4")
    chrome.open(Report(replace(result, model=EVIL)).save(tmp_path / "evil.html"), width=400)
    assert chrome.evaluate("document.title") == EVIL
    assert chrome.evaluate("document.scripts.length") == 1
    assert chrome.evaluate("document.querySelector('h1').textContent") == EVIL
    assert chrome.evaluate("document.querySelectorAll('img[src=\"x\"]').length") == 0
    assert complaints(chrome) == []
    assert chrome.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_policy_stops_a_script_that_slipped_through(chrome: Chrome, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text(encoding="utf-8").replace("</h1>", f"{EVIL}</h1>"), encoding="utf-8")
    chrome.open(broken, width=400)
    assert chrome.evaluate("document.title") != "hacked"
    assert complaints(chrome) != []


_CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (c) => c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const paper = getComputedStyle(document.body).backgroundColor;
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== "rgba(0, 0, 0, 0)") return c;
    }
    return paper;
  };
  const bad = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility()) continue;
    const svg = e.closest("svg") !== null;
    const back = behind(e);
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(svg ? style.fill : style.color, back)), light(rgb(back, paper))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${e.className.baseVal ?? e.className} | ${e.textContent.slice(0, 30)} | ${ratio}`);
  }
  return [...new Set(bad)];
})()"""
