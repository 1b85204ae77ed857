"""A protocol learned from published conversations gives them back, character for character, and says where not."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published_chats import KINDS, rows_of

from vzoom.cli.main import main
from vzoom.data.learning.chats import read_chats
from vzoom.data.learning.check import check_chats
from vzoom.data.learning.learn import Learned, guess_base, learn_protocol
from vzoom.data.validate import InvalidRecord
from vzoom.models import load_vocabulary
from vzoom.protocol import builtin_protocol, escape_template, load_protocol, to_toml
from vzoom.zoomer import embedded_path


def written(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(made, ensure_ascii=False))
    return path


def learned_from(path: Path) -> Learned:
    chats = read_chats(path)
    base = guess_base(chats)
    return learn_protocol(chats, base, name="theirs")


# ---------------------------------------------------------------- learned and proved


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_unknown_texts_are_learned_and_given_back(kind: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{kind} {seed}")
    made, texts = rows_of(KINDS[kind], rng, 40)
    learned = learned_from(written(tmp_path / "sft.json", made))
    file = tmp_path / "protocol.toml"
    file.write_text(to_toml(learned.protocol))
    protocol = load_protocol(file)
    assert protocol == learned.protocol
    assert protocol.unknown_texts == ()
    assert protocol.limits.max_zooms == 4
    assert texts.last not in protocol.turns.tool

    # Other conversations of the same checkpoint, too: what was learned is the protocol, not the file.
    rng = random.Random(f"{kind} {seed}")
    more, _ = rows_of(KINDS[kind], rng, 200)
    deviations = check_chats(read_chats(written(tmp_path / "more.json", more)), protocol)
    assert deviations == [], "\n".join(map(str, deviations[:3]))


LABELS: dict[str, tuple[str, str, int]] = {
    "videozoomer": ("<frame{index}_time{time:.2f}s>", "", 0),
    "numbered": ("Frame {index} at {time:.1f}s: ", "\n", 1),
    "longvt": ("", "", 0),
    "paravt": ("", "", 0),
    "timesearch-r": ("{time:.1f}s", "", 0),
    "conan": ("{clock}", "", 0),
    "minutes": ("[{short_clock}] #{index:02d} ", " | ", 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_told_from_what_stands_between_frames(kind: str, tmp_path: Path) -> None:
    made, _ = rows_of(KINDS[kind], random.Random(kind), 40)
    frame = learned_from(written(tmp_path / "sft.json", made)).protocol.frame
    assert (frame.label, frame.separator, frame.first_index) == LABELS[kind]
    assert frame.index_restarts == "clip"


def test_an_index_may_count_on_and_a_label_may_name_the_frame(tmp_path: Path) -> None:
    """Labels of FrameThinker's kind, and an index that is not begun anew."""
    made, _ = rows_of(KINDS["videozoomer"], random.Random(2), 30)
    for row in made:
        shown = itertools.count(1)
        for message in row["messages"]:
            message["content"] = re.sub(
                r"<frame\d+_time([\d.]+)s>",
                lambda found: f"Image {next(shown)}, frame {round(float(found[1]) * 25)}: ",  # noqa: B023
                message["content"],
            )
    path = written(tmp_path / "sft.json", made)
    learned = learned_from(path).protocol
    assert learned.frame.label == "Image {index}, frame {frame}: "
    assert (learned.frame.first_index, learned.frame.index_restarts) == (1, "never")
    assert check_chats(read_chats(path), learned) == []


def deviants(made: list[dict[str, Any]], change: Callable[[str], str], row: int, message: int) -> list[dict[str, Any]]:
    """The same conversations, with one message of one row changed."""
    made = json.loads(json.dumps(made))
    text = made[row]["messages"][message]["content"]
    made[row]["messages"][message]["content"] = change(text)
    assert made[row]["messages"][message]["content"] != text
    return made


PLANTED: dict[str, tuple[int, str, Callable[[str], str]]] = {
    "system": (0, "system message", lambda text: text + "!"),
    "label": (1, "opening", lambda text: text.replace("_time4.00s>", "_time4.0s>")),
    "index": (1, "opening", lambda text: text.replace("<frame1_", "<frame7_")),
    "opening": (1, "opening", lambda text: text.replace("<image>", "<image> ", 1)),
    "tool turn": (3, "tool turn 1", lambda text: text.replace("<tool_response>", "<tool-response>")),
    "a call that nobody reads": (2, "tool turn 1", lambda text: text.replace("segment", "span")),
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_deviation_is_reported_with_its_row_and_does_not_change_what_is_learned(
    where: str, tmp_path: Path
) -> None:
    made, _ = rows_of(KINDS["videozoomer"], random.Random(5), 40)
    plain = learned_from(written(tmp_path / "sft.json", made)).protocol
    message, name, change = PLANTED[where]
    row = next(i for i in range(10, 40) if "<image>" in str(made[i]["messages"][3]["content"]))
    path = written(tmp_path / "planted.json", deviants(made, change, row, message))
    assert learned_from(path).protocol == plain
    assert check_chats(read_chats(tmp_path / "sft.json"), plain) == []
    (found,) = check_chats(read_chats(path), plain)
    assert (found.row, found.id, found.message) == (row, str(row), name)
    text = json.loads(path.read_text())[row]["messages"][message if message != 2 else 3]["content"]
    assert text[found.difference.at :].startswith(found.difference.found[:20])
    assert f"row {row} ({row}), {name}, character {found.difference.at}" in str(found)


def test_the_last_round_and_the_error_turn_are_told_apart(tmp_path: Path) -> None:
    made, texts = rows_of(KINDS["videozoomer"], random.Random(9), 60)
    turns = learned_from(written(tmp_path / "sft.json", made)).protocol.turns
    opened, closed = "<tool_response>\n", "\n</tool_response>"
    told = {name: escape_template(text) for name, text in vars(texts).items()}
    assert turns.system == told["system"]
    assert turns.opening == f"{{frames}}{told['before']} {{question}} {told['after']}"
    assert turns.tool == f"{opened}{told['clip']}\n{{frames}}{closed}{told['more']}"
    assert turns.last_tool == turns.tool + told["last"]
    assert turns.error == f"{opened}{told['error']} {{help}}.{closed}{told['retry']}"
    assert turns.last_error == turns.error + told["last"]


def test_what_the_data_cannot_tell_is_said(tmp_path: Path) -> None:
    made, _ = rows_of(KINDS["videozoomer"], random.Random(9), 30, rounds=2)
    for row in made:
        del row["messages"][2:4]  # no conversation zooms
    chats = read_chats(written(tmp_path / "sft.json", made))
    with pytest.raises(ValueError, match="no built-in protocol reads a call"):
        guess_base(chats)
    learned = learn_protocol(chats, builtin_protocol("videozoomer"), name="theirs")
    said = "\n".join(learned.unsure)
    assert "no conversation shows a clip" in said
    assert "the error turn: no conversation shows one" in said
    assert "{clip_text}" in learned.protocol.turns.tool


def test_the_commands_learn_prove_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, texts = rows_of(KINDS["videozoomer"], random.Random(5), 40)
    data = str(written(tmp_path / "sft.json", made))
    folder = str(tmp_path / "learned")
    assert main(["protocol", "learn", data, "-o", folder]) == 0
    assert "gives 40 of them back, character for character" in capsys.readouterr().out
    learned = load_protocol(folder)
    assert learned.name == "videozoomer"
    assert learned.checkpoints == builtin_protocol("videozoomer").checkpoints

    assert main(["protocol", "check", folder, data]) == 0
    assert "40 of 40 conversations are given back" in capsys.readouterr().out
    planted = str(written(tmp_path / "planted.json", deviants(made, lambda text: text + "!", 7, 1)))
    assert main(["protocol", "check", folder, planted]) == 1
    said = capsys.readouterr().out
    assert "row 7 (7), opening, character" in said
    assert "39 of 40 conversations are given back" in said
    assert main(["protocol", "check", "videozoomer", data]) == 2
    assert "lacks texts that are not ours to ship: system_text" in capsys.readouterr().err

    assert main(["protocol", "show", folder]) == 0
    shown = capsys.readouterr().out
    assert texts.system in shown
    assert texts.last in shown.partition("last tool turn")[2]
    assert main(["protocol", "show", "zsgvivo/videozoomer"]) == 0  # no test reaches for the hub
    shown = capsys.readouterr()
    assert "[clip_text]" in shown.out
    assert "its files cannot be had" in shown.err
    assert main(["protocol", "show", "embedded"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = ["glance turn", "tool turn", "last tool turn", "error turn"]
    assert [line for line in lines if line.endswith("turn")] == kinds
    runs = [re.fullmatch(r"('.*'|\".*\") +([\d ]+)", line) for line in lines if line.startswith(("'", '"'))]
    codec = load_vocabulary(str(embedded_path())).codec
    assert len(runs) > 20
    for run in runs:
        assert run
        assert codec.decode([int(id) for id in run[2].split()], special=True) == ast.literal_eval(run[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "row 0: must be an object"),
        ("[]", "holds no conversation"),
        ("{", "no JSON"),
        ('[{"messages": [{"role": "assistant", "content": "x"}]}]', "row 0: roles must be"),
        ('[{"messages": [{"role": "user", "content": 5}]}]', "row 0: content must be text"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_its_row(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(InvalidRecord, match=message):
        read_chats(path)


def test_json_lines_and_content_in_parts_are_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    row = {"id": "x7", "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(row)}\n")
    first, second = read_chats(path)
    assert (first.id, first.shown, first.written, second.row) == ("x7", ("a<image>b",), ("c",), 1)


def test_all_rows_asking_the_same_is_refused(tmp_path: Path) -> None:
    made, _ = rows_of(KINDS["videozoomer"], random.Random(1), 1)
    with pytest.raises(ValueError, match="ask the same"):
        learned_from(written(tmp_path / "sft.json", made * 3))


def test_conversations_without_a_system_message_leave_it_to_the_chat_template(tmp_path: Path) -> None:
    """Qwen's chat templates have a system message of their own, which the data does not show."""
    made, _ = rows_of(KINDS["conan"], random.Random(1), 30)
    for row in made:
        del row["messages"][0]
    path = written(tmp_path / "sft.json", made)
    learned = learned_from(path)
    assert learned.protocol.turns.system_from_chat_template
    assert "chat template gives it" in "\n".join(learned.unsure)
    assert check_chats(read_chats(path), learned.protocol) == []
