"""docs/reference.md says what the code does: settings, environment variables, exit codes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import reference

from vzoom.chat import endpoint
from vzoom.config import Setting, ZoomConfig, settings_of


def test_the_tables_are_todays() -> None:
    text = reference.PAGE.read_text()
    assert reference.page_with_tables(text) == text, "run: python tests/reference.py"
    assert all(f"`{name}`" in text for name in ZoomConfig.__dataclass_fields__)


@dataclass
class Described:
    """Some settings.

    Args:
        one: the first,
            on two lines.
        two: the second: with a colon.

    Raises:
        ValueError: never.
    """

    one: int = 1
    two: str = "b"


def test_a_docstring_says_what_settings_mean() -> None:
    assert settings_of(Described) == {
        "one": Setting("one", int, 1, "the first, on two lines"),
        "two": Setting("two", str, "b", "the second: with a colon"),
    }


def test_a_docstring_that_leaves_a_field_out_is_refused() -> None:
    @dataclass
    class Silent(Described):
        """Some settings.

        Args:
            one: the first.
        """

    with pytest.raises(ValueError, match="docstring of Silent does not say what two means"):
        settings_of(Silent)


def test_without_docstrings_the_command_line_still_works() -> None:
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "vzoom", "ask", "--help"], capture_output=True, text=True, check=True
    )
    assert "--max-zooms" in done.stdout


def test_every_environment_variable_that_is_read_is_documented_and_the_other_way_round() -> None:
    patterns, documented = reference.patterns_of_variables(), reference.documented_variables()
    assert len(patterns) > 15, "the walk sees too few variables to mean anything"
    for pattern, place in patterns.items():
        assert any(re.fullmatch(pattern, name) for name in documented), f"{place} reads {pattern}: document it"
    stale = {name for name in documented if not any(re.fullmatch(pattern, name) for pattern in patterns)}
    assert not stale, f"nothing reads {sorted(stale)}"


def test_the_walk_knows_the_endings_of_an_endpoint() -> None:
    """They are put together in chat/endpoint.py, which the walk cannot follow."""
    source = Path(endpoint.__file__).read_text()
    (endings,) = re.findall(r"_\(\?:([A-Z_|]+)\)_", source)
    found = {pattern.removeprefix("VZOOM_JUDGE_") for pattern in reference.patterns_of_variables()}
    assert set(endings.split("|")) <= found


@pytest.mark.parametrize(
    ("code", "pattern"),
    [
        ("os.environ['A']", "A"),
        ("os.environ.get('A', '1')", "A"),
        ("os.getenv('A')", "A"),
        ("'A' in os.environ", "A"),
        ("environment.get(f'A_{kind}')", r"A_\w+"),
    ],
)
def test_every_way_to_read_a_variable_is_seen(code: str, pattern: str) -> None:
    assert [found for found, _ in reference.read_in(ast.parse(code))] == [pattern]
