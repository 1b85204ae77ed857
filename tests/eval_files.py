"""A handful of rows for every benchmark, in the published schema; their texts are ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]


def write_json(path: Path, rows: Rows) -> None:
    """As published lists are: one object after the other, several lines each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=4))


def write_jsonl(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a video")


# ---------------------------------------------------------------- MLVU

MLVU_TASKS: Mapping[str, Rows] = {
    "1_plotQA": [
        {
            "video": "movie_1.mp4",
            "duration": 246,
            "question": "What colour is the car?",
            "candidates": ["Yellow", "Red", "Blue", "Green"],
            "answer": "Blue",
            "question_type": "plotQA",
        },
        {
            "video": "movie_2.mp4",
            "duration": 610.5,
            "question": "Who opens the door?",
            "candidates": ["A boy", "A girl", "A dog", "Nobody"],
            "answer": "A boy",
            "question_type": "plotQA",
        },
    ],
    "2_needle": [
        {
            "video": "movie_1.mp4",
            "duration": 4000,
            "question": "What floats in the pool?",
            "candidates": ["A ball", "A duck", "A boat", "A hat"],
            "answer": "A hat",
            "question_type": "findNeedle",
        }
    ],
    "3_ego": [],
    "4_count": [
        {
            "video": "count_1.mp4",
            "duration": 180,
            "question": "How often does he wave?",
            "candidates": [1, 2, 3, 4],
            "answer": 3,
            "question_type": "count",
        }
    ],
    "5_order": [],
    "6_anomaly_reco": [],
    "7_topic_reasoning": [],
    "8_sub_scene": [
        {
            "video": "movie_1.mp4",
            "duration": 246,
            "question": "What does the man do in the kitchen?",
            "answer": "He cooks a soup and burns it.",
            "question_type": "subPlot",
            "scoring_points": ["cooks soup", "burns it"],
        }
    ],
    "9_summary": [],
}


def mlvu_dev(root: Path) -> None:
    for task, rows in MLVU_TASKS.items():
        write_json(root / "MLVU" / "json" / f"{task}.json", rows)


def mlvu_test(root: Path) -> None:
    row = {
        "video": "test_surveil_27.mp4",
        "duration": 297.57,
        "question": "Is there anything unusual?",
        "candidates": ["Fighting", "Shoplifting", "Arrest", "Normal", "Shooting", "Vandalism"],
        "answer": "Shoplifting",
        "question_type": "anomaly_reco",
        "question_id": "AR_0",
    }
    other = {**row, "question_id": "AR_1", "answer": "Vandalism"}
    write_json(root / "test-ground-truth" / "test_mcq_gt.json", [row, other])


# ---------------------------------------------------------------- LongVideoBench

LONGVIDEOBENCH: Rows = [
    {
        "video_id": "vid_a",
        "question": "When the man with the hat waves, what stands behind him?",
        "candidates": ["a tree", "a horse", "a house", "a cart", "nothing"],
        "correct_choice": 1,
        "position": [854, 1212],
        "topic_category": "NP-News-Programs",
        "question_category": "S2O",
        "level": "IntraMoment",
        "id": "vid_a_0",
        "video_path": "vid_a.mp4",
        "subtitle_path": "vid_a_en.json",
        "duration_group": 600,
        "starting_timestamp_for_subtitles": 100,
        "duration": 190.16,
    },
    {
        "video_id": "vid_b",
        "question": "Which of these is said first?",
        "candidates": ["red", "green", "blue"],
        "correct_choice": 0,
        "question_category": "T3E",
        "topic_category": "TL",
        "id": "vid_b_0",
        "video_path": "vid_b.mp4",
        "subtitle_path": "vid_b_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 0,
        "duration": 12.0,
    },
]


def longvideobench(root: Path) -> None:
    write_json(root / "lvb_val.json", LONGVIDEOBENCH)
    spoken = [
        {"timestamp": [90.0, 99.0], "text": "said before the clip"},
        {"timestamp": [101.5, 104.0], "text": "hello"},
        {"timestamp": [113.0, None], "text": "and goodbye"},
        {"timestamp": [400.0, 402.0], "text": "said behind the clip"},
    ]
    write_json(root / "subtitles" / "vid_a_en.json", spoken)
    clocked = [{"start": "00:00:01.500", "end": "00:00:03.000", "line": "red, then blue"}]
    write_json(root / "subtitles" / "vid_b_en.json", clocked)


# ---------------------------------------------------------------- Video-MME

VIDEOMME: Rows = [
    {
        "video_id": f"{number:03d}",
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "url": "https://www.youtube.com/watch?v=x",
        "videoID": key,
        "question_id": f"{number:03d}-1",
        "task_type": task,
        "question": "How many planets are shown?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": answer,
    }
    for number, duration, key, task, answer in (
        (1, "short", "fFjv93ACGo8", "Counting Problem", "C"),
        (2, "long", "026dzf-vc5g", "Counting Problem", "A"),
        (3, "long", "068rdc75mHM", "OCR Problems", "D"),
    )
]
SRT = """1
00:00:12,000 --> 00:00:14,500
<font color="white" size=".72c">We begin.</font>

2
00:00:14,500 --> 00:00:19,000
<font color="white" size=".72c">Look up</font>
<font color="white" size=".72c">at the sky.</font>
"""


def videomme(root: Path) -> None:
    write_parquet(root / "videomme" / "test-00000-of-00001.parquet", VIDEOMME)
    (root / "subtitle").mkdir(parents=True, exist_ok=True)
    (root / "subtitle" / "026dzf-vc5g.srt").write_text(SRT)


# ---------------------------------------------------------------- LVBench

LVBENCH: Rows = [
    {
        "key": "Cm73ma6Ibcs",
        "type": "documentary",
        "video_info": {"duration_minutes": 75.5, "fps": 25.0, "resolution": {"width": 640, "height": 360}},
        "qa": [
            {
                "uid": "1000",
                "question": "What year appears in the caption?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
                "answer": "D",
                "question_type": ["key information retrieval"],
                "time_reference": "00:15-00:19",
            },
            {
                "uid": "1001",
                "question": "What does he hold?\n(A) a cup\n(B) a lamp\n(C) a rope\n(D) a book",
                "answer": "A",
                "question_type": ["entity recognition", "event understanding"],
                "time_reference": "1:02:03-1:02:10",
            },
            {
                "uid": "1002",
                "question": "Why does he leave?\n(A) rain\n(B) fear\n(C) hunger\n(D) anger",
                "answer": "B",
                "question_type": ["reasoning"],
                "time_reference": "",
            },
        ],
    }
]


def lvbench(root: Path) -> None:
    write_jsonl(root / "video_info.meta.jsonl", LVBENCH)


# ---------------------------------------------------------------- Video-MMLU

VIDEOMMLU: Rows = [
    {
        "video_id": "Sum_of_Odds",
        "caption": "Dots are laid out in squares.",
        "captions_qa": [
            {"question": "What is laid out?", "answer": "dots"},
            {"question": "Which figure do they form?", "answer": "squares"},
            {"question": "What colour is the ground?", "answer": "black"},
        ],
        "reasoning_qa": [
            {"question": "What do the odd numbers add up to?", "answer": "perfect squares"},
            {"question": "What is the fourth square\\'s side?", "answer": "four"},
        ],
    },
    {
        "video_id": "Alkenes",
        "caption": "A reaction.",
        "captions_qa": [],
        "reasoning_qa": [{"question": "Why is HBr eliminated?", "answer": "to form an alkene"}],
    },
]


def videommlu(root: Path) -> None:
    write_jsonl(root / "video_mmlu.jsonl", VIDEOMMLU)
    labels = [{"video_id": "Sum_of_Odds", "label": "Math"}, {"video_id": "Alkenes", "label": "chemistry"}]
    write_jsonl(root / "video_sources.jsonl", labels)


# ---------------------------------------------------------------- VideoMMMU


def videommmu(root: Path) -> None:
    choice = {
        "id": "validation_Art_Theory_18",
        "question": "Which style is shown?",
        "options": ["Cubism", "Baroque", "Pop art"],
        "answer": "B",
        "link_selected": "https://www.youtube.com/watch?v=x",
        "question_type": "multiple-choice",
        "qa_type": "OCR",
    }
    other = {**choice, "id": "dev_Math_3", "options": [f"A{i}" for i in range(10)], "answer": "J"}
    opened = {
        **choice,
        "id": "validation_Math_15",
        "question": "How long is it?",
        "options": [],
        "answer": "['24/7', '3.429', '3.43]",
        "question_type": "open",
    }
    mislabelled = {**choice, "id": "validation_Accounting_13", "answer": "C", "question_type": "None"}
    tracks = {"Perception": [choice], "Comprehension": [choice, other], "Adaptation": [opened, mislabelled]}
    for track, rows in tracks.items():
        write_parquet(root / track / "test-00000-of-00001.parquet", rows)


# ---------------------------------------------------------------- LongVideo-Reason

LONGVIDEOREASON: Rows = [
    {
        "problem_id": 0,
        "problem": "What happens after the goal?\nA. They dance.\nB. They rest.\nC. They argue.\nD. They leave.",
        "data_type": "video",
        "problem_type": "temporal",
        "reasoning": "…",
        "videos": "longvila_videos/clip_0.mp4",
        "answer": "<answer>B</answer>",
    },
    {
        "problem_id": 379,
        "problem": "Who is the man at the car?\n\n",
        "data_type": "video",
        "problem_type": "plot",
        "reasoning": "…",
        "videos": "longvila_videos/clip_1.webm",
        "answer": "<answer>C</answer>",
    },
]


def longvideoreason(root: Path) -> None:
    write_jsonl(root / "test.jsonl", LONGVIDEOREASON)


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "mlvu-dev": mlvu_dev,
    "mlvu-test": mlvu_test,
    "mlvu-generation": mlvu_dev,
    "longvideobench": longvideobench,
    "videomme": videomme,
    "videomme-long": videomme,
    "lvbench": lvbench,
    "videommlu-quiz": videommlu,
    "videommlu-caption": videommlu,
    "videommmu": videommmu,
    "longvideoreason": longvideoreason,
}


def judge_of(verdicts: Sequence[Any]) -> tuple[Callable[[str, str, str], Any], list[tuple[str, str, str]]]:
    """A judge that says what it is told to, in turn, and the questions that it was asked."""
    asked: list[tuple[str, str, str]] = []
    left = list(verdicts)

    def judge(question: str, reference: str, answer: str) -> Any:
        asked.append((question, reference, answer))
        return left.pop(0)

    return judge, asked
