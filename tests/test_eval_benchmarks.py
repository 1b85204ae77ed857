"""Every benchmark: rows in the published schema -> items -> verdicts -> a score that was worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eval_files import LONGVIDEOBENCH, LVBENCH, MLVU_TASKS, VIDEOMME, WRITERS, judge_of, touch, write_json, write_jsonl
from eval_files import write_parquet as parquet

from vzoom.eval.benchmarks import BENCHMARKS, benchmark_named
from vzoom.eval.item import Item, Parts, Verdict
from vzoom.eval.scores.scoring import ItemVerdict, score_run
from vzoom.protocol.judging import JudgeFailed

FAILED = JudgeFailed("it is overloaded", 4)


def items_of(name: str, root: Path, *, subtitles: bool = False) -> list[Item]:
    WRITERS[name](root)
    return list(BENCHMARKS[name].load(root, subtitles=subtitles))


def kinds_of(name: str, items: list[Item], answers: list[str | None]) -> list[str]:
    return [BENCHMARKS[name].score(item, answer).kind for item, answer in zip(items, answers, strict=True)]


def headline_of(name: str, items: list[Item], verdicts: list[Verdict]) -> float:
    outcomes = [ItemVerdict.of(item, verdict) for item, verdict in zip(items, verdicts, strict=True)]
    found = score_run(outcomes, headline=BENCHMARKS[name].headline).headline
    assert found is not None
    return found.mean


# ---------------------------------------------------------------- one by one


def test_mlvu_dev(tmp_path: Path) -> None:
    items = items_of("mlvu-dev", tmp_path)
    assert [item.id for item in items] == ["1_plotQA-0", "1_plotQA-1", "2_needle-0", "4_count-0"]
    assert items[0].question == (
        "What colour is the car?\nA. Yellow\nB. Red\nC. Blue\nD. Green\nAnswer with the letter of the right option."
    )
    assert [item.reference for item in items] == ["C", "A", "D", "C"]
    assert [item.category for item in items] == ["plotQA", "plotQA", "findNeedle", "count"]
    assert [item.duration_bucket for item in items] == ["3 to 10 min", "10 to 30 min", "over 60 min", "up to 3 min"]
    assert items[3].options == ("1", "2", "3", "4")
    assert items[1].source.endswith("1_plotQA.json:15")  # the second object begins there
    verdicts = [BENCHMARKS["mlvu-dev"].score(item, a) for item, a in zip(items, ["C", "B", "(D)", "2"], strict=True)]
    assert [v.kind for v in verdicts] == ["right", "wrong", "right", "wrong"]
    # M-Avg is the mean over tasks: (1/2 + 1 + 0) / 3, where the mean over items would be 2/4.
    assert headline_of("mlvu-dev", items, verdicts) == pytest.approx(0.5)
    verdicts[3] = BENCHMARKS["mlvu-dev"].score(items[3], "C")
    assert headline_of("mlvu-dev", items, verdicts) == pytest.approx((0.5 + 1 + 1) / 3)


def test_mlvu_videos_of_the_same_name_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    items = items_of("mlvu-dev", tmp_path)
    touch(tmp_path / "MLVU" / "video" / "1_plotQA" / "movie_1.mp4")
    touch(tmp_path / "MLVU" / "video" / "2_needle" / "movie_1.mp4")
    dev = BENCHMARKS["mlvu-dev"]
    assert dev.video_path(tmp_path, items[0]) == tmp_path / "MLVU" / "video" / "1_plotQA" / "movie_1.mp4"
    assert dev.video_path(tmp_path, items[2]) == tmp_path / "MLVU" / "video" / "2_needle" / "movie_1.mp4"
    assert dev.video_path(tmp_path, items[1]) is None


def test_mlvu_test(tmp_path: Path) -> None:
    items = items_of("mlvu-test", tmp_path)
    assert [(item.id, item.reference, len(item.options)) for item in items] == [("AR_0", "B", 6), ("AR_1", "F", 6)]
    assert kinds_of("mlvu-test", items, ["Shoplifting", "f"]) == ["right", "right"]
    assert kinds_of("mlvu-test", items, ["F", "G"]) == ["wrong", "unparsable"]


def test_mlvu_open_tasks_are_judged(tmp_path: Path) -> None:
    (item,) = items_of("mlvu-generation", tmp_path)
    assert item.options == ()
    assert item.question == "What does the man do in the kitchen?"
    judge, asked = judge_of([True, False, FAILED])
    benchmark = BENCHMARKS["mlvu-generation"]
    assert benchmark.score(item, "He burns a soup.", judge) == Verdict("right", "He burns a soup.")
    assert asked == [(item.question, "He cooks a soup and burns it.", "He burns a soup.")]
    assert benchmark.score(item, "He sings.", judge).kind == "wrong"
    assert benchmark.score(item, "He sings.", judge) == Verdict("unjudged", "He sings.", "it is overloaded")
    assert benchmark.score(item, "He sings.").kind == "unjudged"
    assert "VZOOM_JUDGE_URL" in benchmark.score(item, "He sings.").detail


def test_longvideobench(tmp_path: Path) -> None:
    items = items_of("longvideobench", tmp_path)
    assert [item.reference for item in items] == ["B", "A"]
    assert [item.category for item in items] == ["S2O", "T3E"]
    assert [item.duration_bucket for item in items] == ["3 to 10 min", "8 to 15 s"]
    assert [item.subtitles for item in items] == [None, None]
    assert "E. nothing\nAnswer with the letter" in items[0].question
    assert kinds_of("longvideobench", items, ["B. a horse", "D"]) == ["right", "unparsable"]  # no fourth option


def test_longvideobench_subtitles_are_on_the_clips_own_clock(tmp_path: Path) -> None:
    first, second = items_of("longvideobench", tmp_path, subtitles=True)
    header = "Subtitles of the video, each behind the second at which it begins:\n"
    assert first.question.startswith(f"{header}[0s] hello\n[10s] and goodbye\n\nWhen the man")
    assert second.question.startswith(f"{header}[0s] red, then blue\n\nWhich of these")
    assert first.subtitles == "subtitles/vid_a_en.json"


def test_longvideobenchs_test_split_has_no_reference(tmp_path: Path) -> None:
    rows = [{k: v for k, v in LONGVIDEOBENCH[0].items() if k != "correct_choice"}, {**LONGVIDEOBENCH[1]}]
    rows[1]["correct_choice"] = -1
    write_json(tmp_path / "lvb_val.json", rows)
    items = list(BENCHMARKS["longvideobench"].load(tmp_path))
    assert [item.reference for item in items] == [None, None]
    assert BENCHMARKS["longvideobench"].score(items[0], "B").kind == "unjudged"
    assert BENCHMARKS["longvideobench"].score(items[0], "").kind == "unanswered"


def test_videomme_overall_and_long(tmp_path: Path) -> None:
    items = items_of("videomme", tmp_path)
    assert [item.id for item in items] == ["001-1", "002-1", "003-1"]
    assert items[0].options == ("One.", "Two.", "Three.", "Four.")
    assert items[0].question.splitlines()[1:3] == ["A. One.", "B. Two."]
    assert items[0].categories == ("Knowledge", "Counting Problem")
    assert items[2].source.endswith("test-00000-of-00001.parquet, row 2")
    long = list(BENCHMARKS["videomme-long"].load(tmp_path))
    assert [(item.id, item.benchmark) for item in long] == [("002-1", "videomme-long"), ("003-1", "videomme-long")]
    answers = ["Three", "The answer is A.", "I see four planets"]
    assert kinds_of("videomme", items, answers) == ["right", "right", "unparsable"]
    verdicts = [BENCHMARKS["videomme"].score(item, answer) for item, answer in zip(items, answers, strict=True)]
    assert headline_of("videomme", items, verdicts) == pytest.approx(2 / 3)


def test_videomme_subtitles_where_a_video_has_any(tmp_path: Path) -> None:
    items = items_of("videomme", tmp_path, subtitles=True)
    assert [item.subtitles for item in items] == [None, "subtitle/026dzf-vc5g.srt", None]
    assert "begins:\n[10s] We begin. Look up at the sky.\n\nHow many" in items[1].question
    assert items[0].question.startswith("How many")


def test_lvbench(tmp_path: Path) -> None:
    items = items_of("lvbench", tmp_path)
    assert [item.id for item in items] == ["1000", "1001", "1002"]
    assert items[0].options == ("1636", "1366", "1363", "1633")
    assert items[0].question.startswith("What year appears in the caption?\nA. 1636\n")
    assert [item.evidence for item in items] == [((15.0, 20.0),), ((3723.0, 3731.0),), ()]
    assert items[1].categories == ("entity recognition", "event understanding")
    assert {item.duration_bucket for item in items} == {"over 60 min"}
    assert all(item.source.endswith("video_info.meta.jsonl:1") for item in items)
    verdicts = [BENCHMARKS["lvbench"].score(item, a) for item, a in zip(items, ["1633", "B", "B"], strict=True)]
    assert [v.kind for v in verdicts] == ["right", "wrong", "right"]
    scores = score_run([ItemVerdict.of(*pair) for pair in zip(items, verdicts, strict=True)], headline="items")
    accuracies = {name: s.accuracy.mean for name, s in scores.by_category.items() if s.accuracy}
    assert accuracies == {
        "key information retrieval": 1.0,
        "entity recognition": 0.0,
        "event understanding": 0.0,  # the item counts in both
        "reasoning": 1.0,
    }
    assert scores.headline is not None
    assert scores.headline.mean == pytest.approx(2 / 3)


def test_videommlu_quiz(tmp_path: Path) -> None:
    items = items_of("videommlu-quiz", tmp_path)
    assert [item.id for item in items] == ["Sum_of_Odds-0", "Sum_of_Odds-1", "Alkenes-0"]
    assert items[1].question == "What is the fourth square's side?\nAnswer briefly and directly in one sentence."
    assert [item.category for item in items] == ["Math", "Math", "Chemistry"]
    judge, _ = judge_of([True, False, True])
    verdicts = [BENCHMARKS["videommlu-quiz"].score(item, "so", judge) for item in items]
    # The mean over disciplines: (1/2 + 1) / 2.
    assert headline_of("videommlu-quiz", items, verdicts) == pytest.approx(0.75)


def test_videommlu_caption_is_judged_question_by_question(tmp_path: Path) -> None:
    (item,) = items_of("videommlu-caption", tmp_path)  # a video without caption questions is none
    benchmark = BENCHMARKS["videommlu-caption"]
    judge, asked = judge_of([True, False, True])
    verdict = benchmark.score(item, "Dots form squares.", judge)
    assert (verdict.kind, verdict.parts, verdict.detail) == ("right", Parts(2, 3), "2 of 3 parts right")
    assert verdict.points == pytest.approx(2 / 3)
    assert [reference for _, reference, _ in asked] == ["dots", "squares", "black"]
    assert headline_of("videommlu-caption", [item], [verdict]) == pytest.approx(2 / 3)
    judge, _ = judge_of([True, FAILED, True])
    assert benchmark.score(item, "Dots form squares.", judge).kind == "unjudged"
    judge, _ = judge_of([False, False, True])
    assert benchmark.score(item, "Dots.", judge).kind == "wrong"


def test_videommmu(tmp_path: Path) -> None:
    items = items_of("videommmu", tmp_path)
    assert [item.id for item in items] == [
        "Perception-validation_Art_Theory_18",
        "Comprehension-validation_Art_Theory_18",
        "Comprehension-dev_Math_3",
        "Adaptation-validation_Math_15",
        "Adaptation-validation_Accounting_13",
    ]
    assert items[0].categories == ("Perception", "Art Theory")
    assert "last frame" in items[0].question
    assert "at the end of the video" in items[3].question
    assert (len(items[2].options), items[3].options) == (10, ())
    assert items[4].options == ("Cubism", "Baroque", "Pop art")  # whatever its type is said to be
    answers = ["B", "Pop art", "J", "The length is 3.43 m", "C"]
    assert kinds_of("videommmu", items, answers) == ["right", "wrong", "right", "right", "right"]
    assert kinds_of("videommmu", items, ["", None, "K", "3.5", "?"]) == [
        "unanswered",
        "unanswered",
        "unparsable",
        "wrong",
        "unparsable",
    ]
    touch(tmp_path / "Art" / "validation_Art_Theory_18.mp4")
    touch(tmp_path / "question_only" / "dev_Math_3_image.mp4")
    paths = [BENCHMARKS["videommmu"].video_path(tmp_path, item) for item in items[:3]]
    assert paths == [tmp_path / "Art" / "validation_Art_Theory_18.mp4"] * 2 + [None]


def test_longvideoreason(tmp_path: Path) -> None:
    items = items_of("longvideoreason", tmp_path)
    assert [(item.id, item.reference, item.category) for item in items] == [
        ("0", "B", "temporal"),
        ("379", "C", "plot"),
    ]
    assert items[0].options == ("They dance.", "They rest.", "They argue.", "They leave.")
    assert items[1].options == ("A", "B", "C", "D")  # published without options, and counted all the same
    assert kinds_of("longvideoreason", items, ["\\boxed{B}", "(C)"]) == ["right", "right"]
    touch(tmp_path / "longvideo_eval_subset7" / "clip_0.mp4")
    touch(tmp_path / "longvila_videos" / "clip_1.webm")
    paths = [BENCHMARKS["longvideoreason"].video_path(tmp_path, item) for item in items]
    assert paths == [tmp_path / "longvideo_eval_subset7/clip_0.mp4", tmp_path / "longvila_videos/clip_1.webm"]


# ---------------------------------------------------------------- all of them


def test_the_names_are_those_of_the_command_line() -> None:
    wanted = {"mlvu-dev", "mlvu-test", "longvideobench", "videomme", "videomme-long", "lvbench", "videommlu-quiz"}
    assert wanted | {"videommlu-caption", "videommmu", "longvideoreason", "world"} <= set(BENCHMARKS)
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())
    with pytest.raises(ValueError, match="unknown benchmark 'mlvu': choose one of mlvu-dev"):
        benchmark_named("mlvu")


def test_the_papers_rows() -> None:
    rows = {name: (b.paper["base"], b.paper["videozoomer"]) for name, b in BENCHMARKS.items() if b.paper}
    assert rows == {
        "mlvu-dev": (58.3, 68.8),
        "mlvu-test": (45.5, 55.8),
        "longvideobench": (51.0, 57.7),
        "videomme": (63.5, 65.2),
        "videomme-long": (53.9, 55.8),
        "lvbench": (36.9, 41.5),
        "videommlu-quiz": (61.0, 67.9),
        "videommmu": (48.1, 52.2),
        "longvideoreason": (70.8, 80.3),
    }


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_is_said_has_a_verdict_of_its_own(name: str, tmp_path: Path) -> None:
    item = items_of(name, tmp_path)[0]
    benchmark = BENCHMARKS[name]
    for empty in (None, "", "  \n"):
        assert benchmark.score(item, empty, judge_of([])[0]).kind == "unanswered"  # nobody is asked
    if item.options:
        assert item.reference is not None
        other = "A" if item.reference != "A" else "B"
        assert benchmark.score(item, item.reference) == Verdict("right", item.reference)
        assert benchmark.score(item, other) == Verdict("wrong", other)
        assert benchmark.score(item, "A or B").kind == "unparsable"
        assert benchmark.score(item, "It cannot be told.").kind == "unparsable"
        assert benchmark.score(item, "<think>B</think>").kind == "unanswered"
    else:
        assert benchmark.needs_judge
        assert benchmark.score(item, "something").kind == "unjudged"
        assert benchmark.score(item, "something", judge_of([FAILED] * 3)[0]).kind == "unjudged"
    assert benchmark.video_path(tmp_path, item) is None


@pytest.mark.parametrize("name", WRITERS)
def test_an_annotation_that_is_not_there_is_said_to_be_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"looked for .*Give the folder of the data set"):
        list(BENCHMARKS[name].load(tmp_path))


@pytest.mark.parametrize("name", [name for name in WRITERS if not BENCHMARKS[name].has_subtitles])
def test_subtitles_that_a_benchmark_has_not_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} has no subtitles"):
        list(BENCHMARKS[name].load(tmp_path, subtitles=True))


def test_items_of_one_benchmark_are_not_scored_by_another(tmp_path: Path) -> None:
    item = items_of("lvbench", tmp_path)[0]
    with pytest.raises(ValueError, match="is of lvbench, not of videomme"):
        BENCHMARKS["videomme"].score(item, "A")


def test_the_protocol_is_pinned_by_a_hash(tmp_path: Path) -> None:
    lvbench = BENCHMARKS["lvbench"]
    limits = {"max_zooms": 4, "glance_max_frames": 64, "subtitles": False}
    same = lvbench.protocol_hash(dict(reversed(limits.items())))
    assert lvbench.protocol_hash(limits) == same
    assert len(same) == 16
    different = {
        lvbench.protocol_hash({**limits, "max_zooms": 3}),
        lvbench.protocol_hash(limits, revision="another"),
        BENCHMARKS["videomme"].protocol_hash(limits),
        BENCHMARKS["videomme-long"].protocol_hash(limits),
    }
    assert len(different) == 4
    assert same not in different


# ---------------------------------------------------------------- rows that do not fit


def lvbench_row(**changes: object) -> dict[str, object]:
    return {**LVBENCH[0], "qa": [{**LVBENCH[0]["qa"][0], **changes}]}


MISFITS = {
    "mlvu-dev, answer": (
        "mlvu-dev",
        lambda root: write_json(
            root / "json" / "1_plotQA.json",
            [MLVU_TASKS["1_plotQA"][0], {**MLVU_TASKS["1_plotQA"][1], "answer": "A cat"}],
        ),
        r"1_plotQA\.json:15: the answer 'A cat' is none of the options",
    ),
    "mlvu-dev, field": (
        "mlvu-dev",
        lambda root: write_json(
            root / "json" / "1_plotQA.json",
            [{k: v for k, v in MLVU_TASKS["1_plotQA"][0].items() if k != "candidates"}],
        ),
        r"1_plotQA\.json:2: candidates is missing, there are only answer, duration",
    ),
    "longvideobench, choice": (
        "longvideobench",
        lambda root: write_json(root / "lvb_val.json", [{**LONGVIDEOBENCH[1], "correct_choice": 3}]),
        r"lvb_val\.json:2: correct_choice 3 is none of 3 candidates",
    ),
    "longvideobench, group": (
        "longvideobench",
        lambda root: write_json(root / "lvb_val.json", [{**LONGVIDEOBENCH[1], "duration_group": 30}]),
        r"lvb_val\.json:2: duration_group must be one of 15, 60, 600, 3600, got 30",
    ),
    "longvideobench, twice": (
        "longvideobench",
        lambda root: write_json(root / "lvb_val.json", [LONGVIDEOBENCH[1], LONGVIDEOBENCH[1]]),
        r"the id 'vid_b_0' is that of .*lvb_val\.json:2, too",
    ),
    "videomme, answer": (
        "videomme",
        lambda root: parquet(
            root / "videomme" / "test-00000-of-00001.parquet", [VIDEOMME[0], {**VIDEOMME[1], "answer": "E"}]
        ),
        r"parquet, row 1: answer must be one of ABCD, got 'E'",
    ),
    "videomme, column": (
        "videomme",
        lambda root: parquet(
            root / "videomme" / "test-00000-of-00001.parquet",
            [{k: v for k, v in VIDEOMME[0].items() if k != "task_type"}],
        ),
        r"parquet: column task_type is missing",
    ),
    "lvbench, no JSON": (
        "lvbench",
        lambda root: (root / "video_info.meta.jsonl").write_text(f"{json.dumps(LVBENCH[0])}\n{{'key': 1}}\n"),
        r"video_info\.meta\.jsonl:2: no JSON",
    ),
    "lvbench, options": (
        "lvbench",
        lambda root: write_jsonl(root / "video_info.meta.jsonl", [lvbench_row(question="Why?")]),
        r"video_info\.meta\.jsonl:1: question 1000 must end in lines \(A\)",
    ),
    "lvbench, answer": (
        "lvbench",
        lambda root: write_jsonl(root / "video_info.meta.jsonl", [lvbench_row(answer="1636")]),
        r"video_info\.meta\.jsonl:1: answer of question 1000 must be the letter of an option",
    ),
    "longvideoreason, options": (
        "longvideoreason",
        lambda root: write_jsonl(
            root / "test.jsonl",
            [
                {
                    "problem_id": 1,
                    "problem": "Why?\nA. x\nB. y",
                    "problem_type": "goal",
                    "videos": "v.mp4",
                    "answer": "A",
                }
            ],
        ),
        r"test\.jsonl:1: the problem must end in four lines A\. … to D\. …, got 2",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_row_that_does_not_fit_stops_with_file_and_line(case: str, tmp_path: Path) -> None:
    name, write, message = MISFITS[case]
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        list(BENCHMARKS[name].load(tmp_path))


def test_a_video_without_a_discipline_stops(tmp_path: Path) -> None:
    WRITERS["videommlu-quiz"](tmp_path)
    write_jsonl(tmp_path / "video_sources.jsonl", [{"video_id": "Sum_of_Odds", "label": "Math"}])
    with pytest.raises(ValueError, match=r"video_mmlu\.jsonl:2: video Alkenes has no discipline"):
        list(BENCHMARKS["videommlu-quiz"].load(tmp_path))


# ---------------------------------------------------------------- the world


def test_the_worlds_items_are_the_same_each_time_and_their_videos_are_rendered(tmp_path: Path) -> None:
    from itertools import islice

    from vzoom.video import open_video

    world = BENCHMARKS["world"]
    items = list(islice(world.load(tmp_path), 3))
    assert items == list(islice(world.load(tmp_path), 3))
    assert len({item.video for item in items}) == 3
    assert [item.category for item in items] == ["which", "count", "which"]
    assert not list(tmp_path.iterdir())  # reading renders nothing
    paths = [world.video_path(tmp_path, item) for item in items[:2]]
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / item.video for item in items[:2])
    path = paths[1]
    assert path is not None
    with open_video(path) as video:
        assert video.info.duration_seconds == pytest.approx(64.0)
    assert all(0 <= start < end <= 64 for item in items for start, end in item.evidence)
    assert items[0].reference is not None
    assert world.score(items[0], items[0].reference).kind == "right"
