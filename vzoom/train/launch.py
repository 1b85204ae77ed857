"""Training in several processes: how `accelerate launch`, or any other launcher, starts `python -m vzoom.train`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "accelerate_configs"


def launcher(text: str | None) -> tuple[str, ...]:
    """The words that start `-m vzoom.train …`.

    Args:
        text: the name of an accelerate config that vzoom has ("fsdp2"), or a whole command line ("accelerate launch
            --config_file my.yaml"); None trains in this process.

    Returns:
        The words; none for this process.

    Raises:
        ValueError: a single word that names no config.
    """
    words = shlex.split(text or "")
    if len(words) != 1:
        return tuple(words)
    config = CONFIGS / f"{words[0]}.yaml"
    if not config.is_file():
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise ValueError(
            f"--launch {words[0]}: the accelerate configs of vzoom are {names}. Name one of them, or write a whole "
            'command, such as --launch "accelerate launch --config_file my.yaml"'
        )
    # Port 0: any that is free, so that two trainings on one machine do not meet.
    options = ("--config_file", str(config), "--main_process_port", "0")
    return (sys.executable, "-m", "accelerate.commands.launch", *options)


def run_launched(words: Sequence[str], stage: str, recipe: str, options: Mapping[str, Any]) -> None:
    """Run a stage as a command of its own, in as many processes as the launcher starts.

    Args:
        words: of `launcher`.
        stage: "sft" or "grpo".
        recipe: its name.
        options: option -> value, or a list of values; those that are None are left out.

    Raises:
        ValueError: the command failed. What it did is kept.
    """
    command = [*words, "-m", "vzoom.train", stage, recipe]
    for option, value in options.items():
        if value is not None:
            command += [option, *map(str, value if isinstance(value, list) else [value])]
    import subprocess  # here: every `vzoom --help` reads this file

    # Its standard output becomes progress: that of this process has the result alone.
    code = subprocess.run(command, stdout=sys.__stderr__, check=False).returncode
    if code:
        raise ValueError(f"{shlex.join(command)} ended with exit code {code}: run the same command again to resume")
