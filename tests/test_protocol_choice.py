"""Protocols as files, and which one a checkpoint is prompted in."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzz.turns import protocols
from protocols import BRIEF, PUBLIC, VZOOM
from training import small_video

from vzoom.cli.main import main
from vzoom.config import ZoomConfig
from vzoom.models.checkpoint.folder import CheckpointFolder
from vzoom.models.checkpoint.protocol import choose_protocol
from vzoom.protocol import (
    Protocol,
    builtin_names,
    builtin_protocol,
    check_complete,
    load_protocol,
    prompt,
    protocol_from_dict,
    protocol_to_dict,
    to_toml,
    with_system,
)
from vzoom.types import VideoInfo

VIDEO = VideoInfo("v.mp4", 64.0, 8.0, 56, 56)
LEARNED = 'name = "learned"\n[turns]\nsystem = "Look {zoom_max_frames} times at {\\"x\\": 1}."\n'


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("protocol", [*protocols(), PUBLIC], ids=lambda one: one.name)
def test_a_protocol_survives_its_file(protocol: Protocol, tmp_path: Path) -> None:
    file = tmp_path / "protocol.toml"
    file.write_text(to_toml(protocol))
    assert load_protocol(file) == load_protocol(tmp_path) == protocol
    assert protocol_from_dict(json.loads(json.dumps(protocol_to_dict(protocol))), "json") == protocol
    assert hash(load_protocol(file)) == hash(protocol)


@pytest.mark.parametrize(
    "text", ['"""' * 20 + "\n" * 100, '\\"\\\n' * 60 + '"', "\x7f\t\r\n" * 40, "é\u2028\n" * 50, "{x}"]
)
def test_any_text_survives(text: str, tmp_path: Path) -> None:
    said = with_system(VZOOM, text)
    (tmp_path / "protocol.toml").write_bytes(to_toml(said).encode())
    assert tomllib.loads(to_toml(said))["turns"]["system"] == said.turns.system
    shown = prompt("Who?", VIDEO, [], ZoomConfig(protocol=load_protocol(tmp_path)))
    first = shown[0].text  # type: ignore[union-attr]
    assert first.startswith(f"<|im_start|>system\n{text}<|im_end|>\n")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("name = 3", "name: must be a text, got 3"),
        ('colour = "red"', "unknown key colour; there are name, "),
        ("[turns]\nsistem = 'x'", "unknown key turns.sistem; there are turns.system, "),
        ("[turns]\nopening = '{frames} {qestion}'", "turns.opening: unknown field {qestion}; there are {budget}, "),
        ("[frame]\nlabel = '{time:.2d}'", "frame.label: field {time:.2d}: "),
        ("[frame]\nlabel = '{question}'", "frame.label: unknown field {question}"),
        ("[frame]\nfirst_index = 1.5", "frame.first_index: must be a whole number, got 1.5"),
        ("[turns]\nsystem_from_chat_template = 1", "turns.system_from_chat_template: must be true or false, got 1"),
        ("[call]\ngrammar = 'xml'", "call.grammar: must be one of tags_json, hermes, "),
        ("[call]\ngrammar = 'hermes'", "call.tool: hermes calls a tool by its name"),
        ("[call]\nstop = 'x'", "call.stop: must be a list of texts, got 'x'"),
        ("[call]\narguments = {begin = 'b'}", "call.arguments: 'begin' is none of segment, start, "),
        ("[call]\narguments = {fps = 'fps'}", "call.arguments: a call needs segment, or start and end"),
        ("[call]\nschema = '{'", "call.schema: no JSON"),
        ("[zoom]\nmax_frames = 0", "zoom.max_frames: must be 1 or more, got 0"),
        ("[zoom]\nfps = nan", "zoom.fps: must be above 0, got nan"),
        ("[pixels]\nmin = 5000\nmax = 4000", "pixels.min: must be above 0 and at most pixels.max, got 5000"),
        ("[pixels]\nresize = 'box'", "pixels.box: a width and a height of 1 or more, which go with pixels.resize"),
        ("[pixels]\nresize = 'box'\nbox = [448, 0]", "pixels.box: a width and a height of 1 or more"),
        ("[pixels]\nresize = 'box'\nbox = ['448', 448]", "pixels.box: must be a list of two whole numbers"),
        ("[pixels]\nlong_box = [448, 252]", "pixels.long_box: a width and a height of 1 or more, which go with"),
        ("[errors]\nbad = 'x'", "errors.bad: no such error; there are bad_json, "),
        ("frame = 3", "frame: must be a table, got 3"),
        ("[texts]\nhead = 3", "texts: must be a table of texts"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_key(change: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "protocol.toml"
    file.write_text(change if change.startswith("name") else f'name = "x"\n{change}')
    with pytest.raises(ValueError, match=r"protocol\.toml: ") as raised:
        load_protocol(file)
    assert str(raised.value).startswith(f"{file}: {problem}")


def test_what_is_no_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file, and none of the built-in protocols conan, .*vzoom-brief"):
        load_protocol("vzom")
    (tmp_path / "protocol.toml").write_text("name = ")
    with pytest.raises(ValueError, match="no TOML"):
        load_protocol(tmp_path)
    (tmp_path / "protocol.toml").write_text("")
    with pytest.raises(ValueError, match="name: a protocol has a name"):
        load_protocol(tmp_path)


# ---------------------------------------------------------------- settings


def test_a_vzoom_json_of_old_is_read_and_a_new_one_names_its_protocol(tmp_path: Path) -> None:
    old = {"glance_fps": 1.0, "frame_policy": "exact", "resize": "videozoomer", "prompt": "brief"}
    assert ZoomConfig.from_dict(old, "old").protocol == BRIEF
    assert ZoomConfig.from_dict({"prompt": "full"}, "old") == ZoomConfig()
    changed = ZoomConfig.from_dict({"frame_policy": "videozoomer", "resize": "direct"}, "old").protocol
    assert (changed.glance.rule, changed.zoom.rule, changed.pixels.resize) == ("videozoomer", "videozoomer", "direct")
    with pytest.raises(ValueError, match="prompt must be one of full, brief, got 'long'"):
        ZoomConfig.from_dict({"prompt": "long"}, "old")
    for config, told in (
        (ZoomConfig(protocol=BRIEF), "vzoom-brief"),
        (ZoomConfig(protocol=PUBLIC), protocol_to_dict(PUBLIC)),
    ):
        config.save(tmp_path / "vzoom.json")
        saved = json.loads((tmp_path / "vzoom.json").read_text())
        assert saved["protocol"] == told
        assert ZoomConfig.from_dict(saved, "new") == config


def test_a_protocol_gives_the_defaults_of_limits() -> None:
    longvt = next(one for one in protocols() if one.name == "longvt")
    config = ZoomConfig.of(longvt)
    assert (config.glance_max_frames, config.zoom_max_frames, config.max_pixels) == (512, 128, 50176)
    assert ZoomConfig.from_dict({"max_zooms": 1}, "x", protocol=longvt) == replace(config, max_zooms=1)
    assert ZoomConfig.of(VZOOM) == ZoomConfig()


# ---------------------------------------------------------------- the choice


class Tokenizer:
    """Shows a system message and tools as the templates of Qwen2.5 and Qwen3 do, or nothing of tools."""

    chat_template: str | None = "a template"

    def __init__(self, *, shows_tools: bool = True) -> None:
        self.shows_tools = shows_tools

    def apply_chat_template(self, messages: list[dict[str, str]], *, tools: list[Any] | None, **_: Any) -> str:
        system = next((m["content"] for m in messages if m["role"] == "system"), "You are a helpful assistant.")
        if tools and self.shows_tools:
            system += "\n\n# Tools\n<tools>\n" + "\n".join(map(json.dumps, tools)) + '\n</tools>{"name": <name>}'
        return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n?<|im_end|>\n"


def folder(path: Path, **files: str) -> CheckpointFolder:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return CheckpointFolder("some/model", path)


def test_the_order_of_choice(tmp_path: Path) -> None:
    def chosen(one: CheckpointFolder, name: str = "some/model", **asked: Any) -> tuple[str, bool, int]:
        found = choose_protocol([one], asked.pop("tokenizer", Tokenizer()), name=name, **asked)
        return found.config.protocol.name, found.knows_tags, len(found.warnings)

    settings = json.dumps({"protocol": "vzoom-brief", "max_zooms": 1})
    bare, full = folder(tmp_path / "a"), folder(tmp_path / "b", vzoom_json=settings, protocol_toml=LEARNED)
    own = folder(tmp_path / "c", vzoom_json=settings)
    assert chosen(full) == ("learned", True, 0)
    assert choose_protocol([full], Tokenizer(), name="x").config.max_zooms == 1  # the limits of its vzoom.json stay
    assert chosen(own) == ("vzoom-brief", True, 0)
    assert chosen(own, protocol=VZOOM) == ("vzoom", True, 1)  # the same grammar in words that it does not know
    assert chosen(own, protocol=load_protocol(full.path)) == ("learned", True, 0)  # the user's own file
    assert chosen(bare) == ("qwen-zero-shot", False, 1)
    assert chosen(bare, tokenizer=Tokenizer(shows_tools=False)) == ("vzoom", False, 1)
    assert chosen(bare, name="Qwen/Qwen2.5-VL-7B-Instruct") == ("qwen-zero-shot", False, 0)
    assert chosen(bare, name="mine", recorded_names=["Qwen/Qwen2.5-VL-7B-Instruct"]) == ("qwen-zero-shot", False, 1)
    assert chosen(bare, name="zsgvivo/videozoomer", protocol=VZOOM) == ("vzoom", False, 1)
    adapter = folder(tmp_path / "d", protocol_toml=LEARNED)
    assert choose_protocol([adapter, own], Tokenizer(), name="x").config.protocol.name == "learned"


@pytest.mark.parametrize("name", [name for name in builtin_names() if builtin_protocol(name).missing])
def test_missing_texts_are_asked_for(name: str, tmp_path: Path) -> None:
    protocol = builtin_protocol(name)
    checkpoint, *_ = protocol.checkpoints or ("nowhere",)
    asked = None if protocol.checkpoints else protocol  # of some, the hub ids are not known
    with pytest.raises(ValueError, match=rf"the protocol {name} lacks texts that are not ours to ship: ") as raised:
        choose_protocol([folder(tmp_path)], Tokenizer(), name=checkpoint.upper(), protocol=asked)
    for way in (*protocol.missing, "vzoom protocol learn", "--system FILE", "--protocol vzoom"):
        assert way in str(raised.value)
    warned = choose_protocol([folder(tmp_path)], Tokenizer(), name=checkpoint, protocol=VZOOM)
    assert asked or f"was trained in the protocol {name}" in warned.warnings[0]
    check_complete(next(one for one in protocols() if one.name == name))


def test_the_system_message_is_the_chat_templates_or_the_users(tmp_path: Path) -> None:
    found = choose_protocol([folder(tmp_path)], Tokenizer(), name="Qwen/Qwen3-VL-8B-Instruct").config
    first = prompt("Who?", VIDEO, [], found)[0].text  # type: ignore[union-attr]
    assert "at most 4 times" in first
    assert '# Tools\n<tools>\n{"type": "function", "function": {"name": "zoom_video"' in first
    assert '{"name": <name>}<|im_end|>' in first
    given = choose_protocol([folder(tmp_path)], Tokenizer(), name="Qwen/Qwen3-VL-8B-Instruct", system="Use {zoom}.")
    told = prompt("Who?", VIDEO, [], given.config)[0].text  # type: ignore[union-attr]
    assert told.startswith("<|im_start|>system\nUse {zoom}.<|im_end|>")
    hermes, silent = builtin_protocol("qwen-zero-shot"), Tokenizer(shows_tools=False)
    with pytest.raises(ValueError, match="chat template of x, which has none, or one without"):
        choose_protocol([folder(tmp_path)], silent, name="x", protocol=hermes)


# ---------------------------------------------------------------- through the front doors


def test_warnings_are_in_the_result_the_report_and_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ask", small_video(tmp_path).path, "Who?", "--json", "--max-zooms", "0", "--protocol", "vzoom"]
    capsys.readouterr()
    main([*asked, "--report", str(tmp_path / "r.html")])  # with or without an answer
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["protocol"] == "vzoom"
    assert "embedded was trained in the protocol vzoom-brief" in told["warnings"][0]
    assert "warning: " in err
    page = (tmp_path / "r.html").read_text()
    assert "Warning: " in page
    assert "protocol vzoom" in page


def test_the_command_line_refuses_and_takes_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ask", small_video(tmp_path).path, "Who?", "--max-zooms", "0"]
    assert main([*asked, "--protocol", "videozoomer"]) == 2
    assert "lacks texts that are not ours to ship: system_text" in capsys.readouterr().err
    assert main([*asked, "--protocol", str(tmp_path / "no.toml")]) == 2
    assert main([*asked, "--system", str(tmp_path / "no.txt")]) == 2
    assert f"--system {tmp_path / 'no.txt'}" in capsys.readouterr().err
