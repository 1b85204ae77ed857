"""The report: everything of the conversation is in it, everything foreign is escaped, nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser.sample import make_clip, make_result
from PIL import Image
from protocols import VZOOM

from vzoom.engine import Outcome
from vzoom.report import Report, answer_card
from vzoom.report.markup import clock_text, escape, milliseconds_text, nice_step, picture, turn_markup
from vzoom.types import Answer, Clip, StopReason, shortened


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._raw = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and all(w in a.get(k.rstrip("_"), "") for k, w in wanted.items())]


def test_the_page_holds_the_whole_conversation(tmp_path: Path) -> None:
    result = make_result()
    path = Report(result).save(tmp_path / "out.html")
    page = Page(path.read_text(encoding="utf-8"))
    trajectory = result.trajectory
    for line in trajectory.question.splitlines():
        assert line in page.text
    for turn in trajectory.turns:
        assert turn.text in page.text  # letter for letter, though styled in pieces
        for milliseconds in turn.milliseconds.values():
            assert f"{milliseconds:.1f}" in page.text
    for clip in (result.glance, *result.clips):
        for seconds in clip.pts_seconds:
            assert f"{seconds:.2f} s" in page.text
    assert page.text.count("Not carried out") == 1
    assert "reversed" in page.text
    assert "The start must be before the end." in page.text  # what went back to the model
    assert "answered" in page.text
    for row in ("glance → zoom 1", "clip 1 → refused", "error → zoom 2", "clip 2 → answer"):
        assert row in page.text
    assert result.model in page.text
    assert "walk in the park.mp4" in page.text
    assert "/videos" not in page.text  # a report is passed on; folders are nobody's business


def test_every_frame_is_shown_once_and_the_film_strip_beside() -> None:
    result = make_result(num_glance=20)
    html = Report(result).html()
    page = Page(html)
    num_frames = len(result.glance) + sum(map(len, result.clips))
    assert len(page.all("button", class_="frame")) == num_frames
    assert len(page.all("img", src="data:image/jpeg;base64,")) == num_frames + 12


def test_timeline_marks_lie_where_the_times_are() -> None:
    result = make_result(num_glance=4, duration_seconds=100.0)
    page = Page(Report(result).html())
    ticks = page.all("line", class_="tick")
    assert [t["x1"] for t in ticks if "x1" in t and "%" in t["x1"]] == ["0.000%", "25.000%", "50.000%", "75.000%"]
    spans = page.all("rect", class_="span")
    assert [(s["x"], s["width"]) for s in spans] == [("40.000%", "4.000%"), ("94.000%", "6.000%")]
    tips = [a["data-tip"] for _, a in page.tags if "data-tip" in a]
    assert tips[1] == "Glance frame 2 of 4: 25.00 s (0:25)"
    assert tips[4] == "Zoom 1: 40.00–44.00 s (0:40 to 0:44), 16 frames at 4 fps"
    links = [a["href"] for a in page.all("a", class_="zoom")]
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert links == ["#zoom-1", "#zoom-2"]
    assert {link[1:] for link in links} <= ids


def test_nothing_comes_from_elsewhere() -> None:
    html = Report(make_result()).html()
    page = Page(html)
    addresses = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "action", "srcset", "data")]
    assert addresses
    assert all(a.startswith(("data:", "#")) for a in addresses)
    assert not re.search(r"url\(|@import|https?:", re.sub(r"base64,[^\"]*", "", html))
    policy = page.all("meta", http_equiv="Content-Security-Policy") or page.all("meta", content="default-src")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[0]["content"]
    assert "default-src 'none'" in policy[0]["content"]


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' autofocus onfocus=alert(3) </title></style>\x00\x1b[2J"


def test_foreign_text_never_becomes_markup() -> None:
    plain, evil = (
        make_result(question=text, thought=text, answer=text, path=f"/videos/{text.replace('/', '_')}.mp4")
        for text in ("x", EVIL)
    )
    evil = replace(evil, model=EVIL)
    before, after = Page(Report(plain).html()), Page(Report(evil).html())
    assert [t for t, _ in after.tags] == [t for t, _ in before.tags]
    assert [sorted(a) for _, a in after.tags] == [sorted(a) for _, a in before.tags]
    assert after.text.count("<script>alert(1)</script>") >= 5
    assert "\x1b" not in after.text
    assert "\x00" not in after.text


def test_escape_keeps_utf8_and_replaces_what_cannot_be_written() -> None:
    assert escape("ein Fuß < 漢字 & \"x\" 'y'") == "ein Fuß &lt; 漢字 &amp; &quot;x&quot; &#x27;y&#x27;"
    assert escape("a\udcffb\x07c") == "a\ufffdb\ufffdc"  # \udcff: how Python holds an undecodable byte of a file name


def test_turn_markup_styles_the_parts_and_keeps_every_letter() -> None:
    text = 'hm <think>a < b</think><video_zoom>{"x": 1}</video_zoom> tail <answer>no end'
    html = turn_markup(text, VZOOM)
    assert Page(html).text == text
    assert '<span class="thought">a &lt; b</span>' in html
    assert '<span class="call">{&quot;x&quot;: 1}</span>' in html
    assert '<span class="answered">no end</span>' in html


def test_no_answer_says_why() -> None:
    page = Page(Report(make_result(answer=None, stop_reason=StopReason.TURN_TOKENS)).html())
    assert "no answer" in page.text
    assert "limit of new tokens" in page.text
    assert "Unfinished" in page.text


def test_a_letter_is_explained_by_its_option() -> None:
    for answer, shown in (("B", True), ("(B)", True), ("Z", False), ("ring and disc", False)):
        html = Report(make_result(answer=answer)).html()
        assert ("<small>disc</small>" in html) is shown, answer


def test_an_answer_without_tags_is_marked() -> None:
    result = make_result(answer="It is red.")
    for untagged in (False, True):
        result.trajectory.answer_is_untagged = untagged
        for html in (Report(result).html(), result._repr_html_()):
            assert ("without tags: this model was not trained for them" in Page(html).text) is untagged


def test_an_answer_without_zoom() -> None:
    result = make_result()
    trajectory = result.trajectory
    trajectory.turns = [turn for turn in trajectory.turns if isinstance(turn.outcome, Answer)]
    page = Page(Report(replace(result, clips=[])).html())
    assert not page.all("a", class_="zoom")
    assert "glance → answer" in page.text


def test_clips_of_another_conversation_are_refused() -> None:
    result = make_result()
    with pytest.raises(ValueError, match="1 clips for 2 zooms"):
        Report(replace(result, clips=result.clips[:1])).html()


def test_pictures_are_bounded_and_right() -> None:
    frame = make_clip([1.0], height=720, width=1280).frames[0]
    tag = picture(frame, max_side_pixels=384)
    image = Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)"', tag).group(1))))  # type: ignore[union-attr]
    assert image.size == (384, 216)
    assert 'width="384" height="216"' in tag
    expected = np.asarray(Image.fromarray(frame).resize((384, 216), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(np.asarray(image, dtype=float) - expected).mean() < 4
    assert 'width="56"' in picture(np.zeros((56, 56, 3), np.uint8), max_side_pixels=384)  # never enlarged


def test_a_page_of_128_frames_stays_small() -> None:
    rng = np.random.default_rng(0)
    clip = make_clip([float(i) for i in range(64)])
    noise = rng.integers(0, 40, clip.frames.shape, dtype=np.uint8)
    result = make_result(num_glance=64)
    noisy = replace(result.glance, frames=result.glance.frames + noise)
    assert len(Report(replace(result, glance=noisy)).html()) < 3_000_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.25, "1:01.2"), (59.96, "1:00"), (3723, "1:02:03"), (754.5, "12:34.5")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_milliseconds_and_steps() -> None:
    assert [milliseconds_text(x) for x in (0.25, 9.94, 41.2, 1234.5)] == ["0.2 ms", "9.9 ms", "41 ms", "1.23 s"]
    assert [nice_step(span, 6) for span in (5, 64, 126, 3600, 36000)] == [1, 15, 30, 600, 7200]


# ---------------------------------------------------------------- what a prompt and a notebook show


def test_reprs_are_one_short_line() -> None:
    result = make_result(answer="B" * 500, question="Who?\n" + "A: x\n" * 500)
    clip = "Clip(48 frames, 128x72 pixels, 0.00 to 123.38 s)"
    assert repr(result.glance) == clip
    assert repr(Clip(np.zeros((0, 4, 6, 3), np.uint8), (), (), ())) == "Clip(0 frames, 6x4 pixels)"
    assert repr(result.trajectory) == (
        f"Trajectory(question='Who?…', answer='{'B' * 59}…', stop_reason='answered', "
        "turns=4, zooms=2, frames=76, tokens=0)"
    )
    assert repr(result) == (
        f"Result(answer='{'B' * 59}…', stop_reason='answered', zooms=[40.00-44.00 s, 120.00-126.00 s], frames=76, "
        "seconds=3.21)"
    )
    running = make_result(answer=None)
    running.trajectory.stop_reason = None
    assert repr(running).startswith("Result(answer=None, stop_reason=None, ")
    outcome = Outcome(3, running.trajectory, None, running.glance, tuple(running.clips), 1.5)
    assert len(repr(outcome)) < 1000


def test_shortened_text_says_that_something_is_left_out() -> None:
    assert shortened(None) is None
    assert shortened(" yes \n") == "yes"
    assert shortened("a" * 60) == "a" * 60
    assert shortened("a" * 61) == "a" * 59 + "…"
    assert shortened("first\nsecond") == "first…"


def test_the_card_shows_question_answer_and_where_the_model_looked() -> None:
    result = make_result(num_glance=4, duration_seconds=100.0)
    html = result._repr_html_()
    page = Page(html)
    for text in (*result.trajectory.question.splitlines(), "answered", "3.2 s", "walk in the park.mp4 (1:40)"):
        assert text in page.text
    assert "2 zooms: 40.00–44.00 s, 94.00–100.00 s" in page.text
    assert f"{result.trajectory.num_frames} frames" in page.text
    assert result.model in page.text
    assert "/videos" not in page.text
    assert [a["x1"] for a in page.all("line") if "x1" in a] == ["0.000%", "25.000%", "50.000%", "75.000%"]
    assert [(a["x"], a["width"]) for a in page.all("rect")] == [("40.000%", "4.000%"), ("94.000%", "6.000%")]
    assert len({a["fill"] for a in page.all("rect")}) == 2
    assert len(page.all("img", src="data:image/jpeg;base64,")) == 4
    assert len(make_result(num_glance=64)._repr_html_()) < 60_000


def test_the_card_needs_nothing_from_elsewhere() -> None:
    html = make_result()._repr_html_()
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "style", "link", "iframe"}
    assert all(value.startswith("data:") for _, a in page.tags for k, value in a.items() if k in ("src", "href"))
    assert not re.search(r"url\(|@import|https?:", re.sub(r"base64,[^\"]*", "", html))
    opened = [tag for tag, _ in page.tags if tag not in ("img", "line")]
    assert all(html.count(f"</{tag}>") == opened.count(tag) for tag in set(opened))  # every element is closed


def test_foreign_text_never_becomes_markup_on_the_card() -> None:
    plain, evil = (
        make_result(question=text, answer=text, path=f"/videos/{text.replace('/', '_')}.mp4") for text in ("x", EVIL)
    )
    evil = replace(evil, model=EVIL)
    before, after = Page(plain._repr_html_()), Page(evil._repr_html_())
    assert [t for t, _ in after.tags] == [t for t, _ in before.tags]
    assert [sorted(a) for _, a in after.tags] == [sorted(a) for _, a in before.tags]
    assert after.text.count("<script>alert(1)</script>") == 3
    assert "\x1b" not in after.text


def test_a_card_without_answer_or_zoom_says_so() -> None:
    result = make_result(answer=None, stop_reason=StopReason.TOTAL_TOKENS)
    result.trajectory.turns = [turn for turn in result.trajectory.turns if not turn.pts_seconds]
    page = Page(result._repr_html_())
    assert "no answer" in page.text
    assert "limit of tokens" in page.text
    assert "0 zooms ·" in page.text
    assert not page.all("rect")


def test_a_page_does_not_pass_on_what_is_in_a_url() -> None:
    result = make_result(path="https://me:s3cret@host/videos/walk.mp4?token=s3cret#s3cret")
    for page in (Report(result).html(), answer_card(result)):
        assert "walk.mp4" in page
        assert "s3cret" not in page
