"""Exemplars and reflections by a ratio, in an order that a seed draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from data_records import PLAIN, REFLECTION, ZOOM

from vzoom.cli import main
from vzoom.data.mix import mix
from vzoom.data.record import Record
from vzoom.data.store import Writer, read

EXEMPLARS = [replace(ZOOM, id=f"e{n:02d}") for n in range(20)]
REFLECTIONS = [replace(REFLECTION, id=f"r{n:02d}") for n in range(12)]


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


@pytest.mark.parametrize(("ratio", "wanted"), [(0.0, 0), (0.25, 5), (0.3, 6), (0.6, 12)])
def test_all_exemplars_and_so_many_reflections(ratio: float, wanted: int) -> None:
    mixed = mix(EXEMPLARS, REFLECTIONS, ratio=ratio, seed=0)
    assert sorted(id for id in ids(mixed) if id[0] == "e") == ids(EXEMPLARS)
    assert len({id for id in ids(mixed) if id[0] == "r"}) == wanted == len(mixed) - 20


def test_a_seed_draws_which_and_in_what_order() -> None:
    mixed = ids(mix(EXEMPLARS, REFLECTIONS, ratio=0.25, seed=3))
    assert mixed == ids(mix(EXEMPLARS[::-1], REFLECTIONS[::-1], ratio=0.25, seed=3))
    other = ids(mix(EXEMPLARS, REFLECTIONS, ratio=0.25, seed=4))
    assert mixed != other
    assert {id for id in mixed if id[0] == "r"} != {id for id in other if id[0] == "r"}
    assert mixed[:20] != ids(EXEMPLARS)  # shuffled
    assert mixed[:4] == ["e04", "r09", "e09", "e14"]  # the same on every machine


def test_ratios_that_cannot_be_had() -> None:
    with pytest.raises(ValueError, match=r"asks for 20 reflections, there are 12.*lower the ratio to 0\.600"):
        mix(EXEMPLARS, REFLECTIONS, ratio=1.0, seed=0)
    for ratio in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="ratio must be 0 or more"):
            mix(EXEMPLARS, REFLECTIONS, ratio=ratio, seed=0)
    with pytest.raises(ValueError, match="1 ids are in both, r00"):
        mix([*EXEMPLARS, REFLECTIONS[0]], REFLECTIONS, ratio=0.1, seed=0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")
    for name, records in (("e", EXEMPLARS), ("r", REFLECTIONS), ("other", [PLAIN])):
        with Writer(tmp_path / name) as writer:
            for record in records:
                writer.add(record)
    out = str(tmp_path / "out")
    command = ["data", "mix", str(tmp_path / "e"), str(tmp_path / "r"), "--ratio", "0.25", "--seed", "3", "--out"]
    assert main([*command, out]) == 0
    assert main([*command, out]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{out}: 20 exemplars and 5 reflections"] * 2
    assert list(read(out)) == mix(EXEMPLARS, REFLECTIONS, ratio=0.25, seed=3)
    assert main([*command, str(tmp_path / "other")]) == 2
    assert "holds other records" in capsys.readouterr().err
