"""The small variant of `python tests/stress.py`: seconds instead of ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from stress import Stress

from vzoom.models import load_checkpoint


@pytest.mark.parametrize("seed", [1, 2], ids=["overlap", "in turn"])
def test_every_session_of_a_crowd_equals_its_solo_run(seed: int, tmp_path: Path) -> None:
    stress = Stress(load_checkpoint(str(make_checkpoint("qwen2_5_vl", tmp_path))), num_sessions=10, seed=seed)
    stress.run(seconds=2)
    for what in ("finished", "forked", "cancelled", "zooms", "preemptions"):
        assert stress.counts[what] > 0, (what, stress.counts)
