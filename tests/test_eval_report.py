"""The page about runs: its figures are those of the rows, foreign text never becomes markup, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from eval_rows import make_item, make_story, settings, write_run
from test_report import EVIL, Page

from vzoom.eval.item import Verdict
from vzoom.eval.run_page import page
from vzoom.eval.run_page.curves import coloured, curves_of
from vzoom.eval.run_page.frames import spread
from vzoom.eval.run_page.load import load_groups
from vzoom.eval.run_page.pick import pick
from vzoom.eval.run_page.plots import nice_ceiling
from vzoom.eval.runs.store import read_rows
from vzoom.eval.scores.figures import figures_of
from vzoom.report.markup import picture
from vzoom.synthetic.spec import SyntheticConfig, make_video
from vzoom.synthetic.video import render
from vzoom.video import open_video

RIGHT, WRONG = Verdict("right", said="B"), Verdict("wrong", said="A")
HIT, MISS = (29.0, 33.0), (5.0, 9.0)


def rows_of_a_zoomer(text: str = "B"):
    return [
        (make_item(0), RIGHT, make_story(zooms=[HIT])),
        (make_item(1), RIGHT, make_story(zooms=[HIT, MISS])),
        (make_item(2), WRONG, make_story(zooms=[MISS], text="A")),
        (make_item(3), Verdict("unanswered"), make_story(stop="rounds", zooms=[MISS])),
        (make_item(4), Verdict("unparsable", detail=text), make_story(text=text)),
        (make_item(5), Verdict("missing_video", detail="no file 5.mp4"), None),
        (make_item(6), Verdict("unjudged"), make_story()),
    ]


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    uniform = [(make_item(n), RIGHT if n == 3 else WRONG, make_story(text="A")) for n in range(7)]
    return [
        write_run(tmp_path / "zoom", rows_of_a_zoomer()),
        write_run(tmp_path / "uniform", uniform, "uniform"),
    ]


def test_figures_count_everything_apart(two_runs: list[Path]) -> None:
    figures = figures_of(read_rows(two_runs[0] / "predictions.sqlite"))
    assert figures.total == 7
    assert figures.scored == 5  # without the one that was not asked and the one that nobody judged
    assert figures.accuracy is not None
    assert figures.accuracy.mean == pytest.approx(2 / 5)
    assert figures.scores.overall.counts == {
        "right": 2, "wrong": 1, "unanswered": 1, "unparsable": 1, "unjudged": 1, "missing_video": 1, "failed": 0,
    }  # fmt: skip
    assert {k: n for k, n in figures.failures.items() if n} == {
        "right": 2, "zoomed_elsewhere": 1, "out_of_budget": 1, "malformed": 1, "unjudged": 1, "not_asked": 1,
    }  # fmt: skip
    assert figures.frames == pytest.approx((9 + 13 + 9 + 9 + 5 + 5) / 6)
    assert figures.zooms == pytest.approx(5 / 6)
    assert figures.zoom_rate == pytest.approx(4 / 6)
    assert figures.tokens == 1050
    assert figures.seconds == pytest.approx(0.5)
    assert figures.to_json()["interval"][0] < 0.4 < figures.to_json()["interval"][1]


def test_runs_stand_beside_each_other_and_the_paper(two_runs: list[Path]) -> None:
    shown = Page(page(two_runs))
    text = shown.text
    assert "VideoZoomer-7B (paper)41.5" in text
    assert "uniform frames (paper)36.9" in text
    assert "40.0 % of 5" in text
    assert "14.3 % of 7" in text
    details = shown.all("details", class_="item")
    assert len(details) == 7
    assert details[0]["data-outcomes"] == "1:right 2:never_zoomed"
    assert details[3]["data-outcomes"] == "1:out_of_budget 2:right"
    assert ["data-differ" in d for d in details] == [True, True, False, True, True, True, True]
    counts = {(a["data-run"], a["data-failure"]) for t, a in shown.tags if t == "a" and "data-failure" in a}
    assert ("1", "zoomed_elsewhere") in counts
    assert ("2", "never_zoomed") in counts
    assert ("1", "never_zoomed") not in counts  # none of them: nothing to lead to
    # Paired, of the five that both have a verdict on: two only in the first run, one only in the second.
    assert "uniform-20.0" in text
    cells = re.search(r"uniform</th>(<td>.*?)</tr>", page(two_runs)[page(two_runs).index("Paired comparison") :])
    assert cells is not None
    assert re.findall(r"<td>([^<]*)</td>", cells[1])[1:] == ["1", "5", "0", "1", "2", "2"]
    assert "proved at 30.00–32.00 s" in text
    assert "Not asked: no file 5.mp4" in text
    assert shown.text.count("<video_zoom>") == 5  # every turn is there, letter for letter


def test_categories_are_of_their_own_questions(two_runs: list[Path]) -> None:
    html = page(two_runs)
    table = html[html.index("Accuracy by category") :]
    row = re.search(r"<tr><th scope=\"row\">reasoning</th><td>(\d)</td>(.*?)</tr>", table, re.DOTALL)
    assert row is not None
    assert row[1] == "3"  # items 1, 3, 5; the first run has no verdict on 5
    assert re.findall(r"</span>([\d.]+)</td>", row[2]) == ["50.0", "33.3"]


def sweeps(folder: Path) -> list[Path]:
    """Zooms allowed 0, 2, 4 and glance 8, 64, which share a run; uniform 8 and 64; one of another model."""
    paths = []
    for zooms, glance in ((0, 64), (4, 64), (2, 64), (4, 8)):
        changes = {"zoom": {"glance_max_frames": glance, "max_zooms": zooms}, "protocol_hash": f"{zooms}-{glance}"}
        paths.append(write_run(folder / f"z{zooms}g{glance}", rows_of_a_zoomer()[:3], **changes))
    for budget in (8, 64):
        policy = {**settings("uniform")["policy"], "budget": budget}
        # What a policy without zooms does not heed makes no other curve.
        changes = {"policy": policy, "zoom": {"glance_max_frames": budget, "max_zooms": budget}}
        paths.append(write_run(folder / f"u{budget}", rows_of_a_zoomer()[:2], "uniform", **changes))
    paths.append(write_run(folder / "other", rows_of_a_zoomer()[:3], model_hash="ffff"))
    return paths


def test_runs_that_differ_in_one_setting_are_a_curve(tmp_path: Path) -> None:
    paths = sweeps(tmp_path)
    (group,) = coloured(load_groups(paths))
    found = {curve.title: [run.name for run in curve.runs] for curve in curves_of(group.runs)}
    assert found == {
        "zoom: zooms allowed 0 to 4": ["z0g64", "z2g64", "z4g64"],
        "zoom: most frames of the glance 8 to 64": ["z4g8", "z4g64"],
        "uniform: budget of frames 8 to 64": ["u8", "u64"],
    }
    colours = {run.name: run.colour for run in group.runs}
    assert colours["z0g64"] == colours["z2g64"] == colours["z4g64"]
    assert colours["u8"] == colours["u64"]
    assert len({colours[name] for name in ("z0g64", "z4g8", "u8", "other")}) == 4
    html = page(paths)
    shown = Page(html)
    plots = [a["aria-label"] for a in shown.all("svg", role="img") if a["aria-label"].startswith("Accuracy against")]
    titles = [label.partition(". ")[0].removeprefix("Accuracy against ") for label in plots]
    assert titles[4:] == ["zooms allowed", "most frames of the glance", "budget of frames"]
    assert "z2g64: 2, 66.7 %" in plots[4]
    assert "u8" not in plots[4]
    lines = re.findall(r'<polyline class="family" points="([^"]*)"', html)
    assert len(lines) == 4 * 3 + 3  # every curve against each cost, and against its own setting
    zooms = [float(point.split(",")[0]) for point in lines[12].split()]
    assert zooms[1] - zooms[0] == zooms[2] - zooms[1] > 0  # 0, 2, 4 on an even axis


def test_runs_of_other_questions_are_no_curve(tmp_path: Path) -> None:
    rows = rows_of_a_zoomer()[:2]
    paths = [
        write_run(tmp_path / f"{n}", rows, zoom={"glance_max_frames": 64, "max_zooms": n}, limit=n) for n in (1, 2)
    ]
    (group,) = load_groups(paths)
    assert curves_of(group.runs) == []


def test_foreign_text_never_becomes_markup(tmp_path: Path) -> None:
    plain, evil = (
        Page(page([write_run(tmp_path / name, rows_of_a_zoomer(text), model=text)]))
        for name, text in (("a", "x"), ("b", EVIL))
    )
    assert [t for t, _ in evil.tags] == [t for t, _ in plain.tags]
    assert [sorted(a) for _, a in evil.tags] == [sorted(a) for _, a in plain.tags]
    assert evil.text.count("<script>alert(1)</script>") >= 2


def test_nothing_comes_from_elsewhere(two_runs: list[Path]) -> None:
    html = page(two_runs)
    addresses = [v for _, a in Page(html).tags for k, v in a.items() if k in ("src", "href", "action", "srcset")]
    assert addresses
    assert all(a.startswith(("data:", "#")) for a in addresses)
    assert not re.search(r"url\(|@import|https?:", re.sub(r"base64,[^\"]*", "", html))
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_frames_are_cut_from_the_video_that_is_found(tmp_path: Path) -> None:
    config = SyntheticConfig(duration_seconds=60, frame_size=56, fps=4)
    videos = tmp_path / "videos"
    videos.mkdir()
    render(make_video(0, config), videos / "0.mp4")
    (videos / "1.mp4").write_text("broken")
    folder = write_run(tmp_path / "run", rows_of_a_zoomer()[:3])
    shown = Page(page([folder], roots=[tmp_path, videos]))
    captions = [a["aria-label"] for a in shown.all("button", class_="frame")]
    assert captions[:5] == [f"Glance, {t:.2f} s" for t in (0, 10, 20, 40, 50)]
    assert captions[5:] == [f"Zoom 1, {t:.2f} s" for t in (29, 30, 31, 32)]
    pictures = re.findall(r'aria-label="[^"]*, ([\d.]+) s">(<img [^>]*>)', page([folder], roots=[videos]))
    with open_video(videos / "0.mp4") as video:  # each is what the video shows at its time, whatever was cut before
        assert pictures == [
            (t, picture(video.frames_at([float(t)]).frames[0], max_side_pixels=112)) for t, _ in pictures
        ]
    assert "No frames:" in shown.text  # the second is no video
    assert "1 video of" in shown.text  # the third is nowhere
    assert not Page(page([folder], roots=[videos], most_frames=0)).all("button", class_="frame")


def test_where_there_are_too_many_every_outcome_is_still_shown(tmp_path: Path) -> None:
    rows = [(make_item(n), RIGHT, make_story(zooms=[HIT])) for n in range(30)]
    rows[17] = (make_item(17), WRONG, make_story(text="A"))
    (group,) = load_groups([write_run(tmp_path / "run", rows)])
    assert pick(group, 3) == [0, 1, 17]
    assert pick(group, 100) == list(range(30))
    html = page([tmp_path / "run"], most_items=3)
    assert "3 of the 30 questions" in html
    assert len(Page(html).all("details", class_="item")) == 3


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, two_runs: list[Path]) -> None:
    other = [(make_item(n, id=f"x-{n}"), RIGHT, make_story()) for n in range(2)]
    with pytest.raises(ValueError, match=r"different lvbench data: item 0 is q-0 and x-0"):
        page([two_runs[0], write_run(tmp_path / "other", other)])
    with pytest.raises(ValueError, match="named twice"):
        page([two_runs[0], two_runs[0] / "predictions.sqlite"])
    with pytest.raises(ValueError, match="let `vzoom eval` finish"):
        page([tmp_path])


def test_names_of_runs_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    rows = rows_of_a_zoomer()[:1]
    paths = [write_run(tmp_path / name, rows) for name in ("a/run", "b/run")]
    assert [run.name for run in load_groups(paths)[0].runs] == ["a/run", "b/run"]
    assert [run.name for run in load_groups(paths[:1])[0].runs] == ["run"]


def test_small_things() -> None:
    assert spread([0.0, 1.0, 2.0, 3.0, 4.0], 3) == [0.0, 2.0, 4.0]
    assert spread([1.0], 8) == [1.0]
    assert [nice_ceiling(x) for x in (0, 0.49, 1.0, 33, 64, 81, 1050)] == [1, 0.5, 1, 40, 80, 100, 1200]
