"""The ablation's table and page, from made-up evaluations; and the data of its row without zooms."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import ablation
import ablation_page
import write_tables


def scores(right, total, zooms=1.0, frames=24.0):
    return [
        {"accuracy": float(i < right), "mean_zooms": zooms, "mean_frames": frames, "hit_rate": 0.5}
        for i in range(total)
    ]


def one_seed(shift):
    rows = {row: scores(4 + i + shift, 20) for i, row in enumerate(ablation.ROWS)}
    zooms = {row: {str(k): scores(k + 2, 20, float(k), 16.0 + 4 * k) for k in range(5)} for row in ("sft", "full")}
    curve = [{"step": 0, "eval/accuracy": 0.5}, {"step": 1, "zoom_rate": 0.5}, {"step": 2, "eval/accuracy": 0.75}]
    curves = {row: curve for row in ablation.ROWS if row not in ("sft", "uniform")}
    return {"rows": rows, "zooms": zooms, "uniform": {"24": rows["uniform"], "48": scores(9, 20)}, "curves": curves}


@pytest.fixture
def held():
    ceiling = {"24": 0.5, "48": 0.75}
    more = {"cpu_hours": 1.5, "cpu": "a", "date": "2026-01-02T", "uniform_ceiling": ceiling}
    return ablation.collect([one_seed(0), one_seed(2)], [0, 1]) | more


def test_rows_are_means_over_seeds(held):
    rows = {row["name"]: row for row in held["rows"]}
    assert tuple(rows) == ablation.ROWS
    assert rows["uniform"]["accuracy"] == 0.25
    assert rows["uniform"]["by_seed"] == [0.2, 0.3]
    assert rows["full"]["accuracy"] == 0.5
    low, high = rows["full"]["interval"]
    assert 0.2 < low < 0.45
    assert 0.55 < high < 0.8
    assert (rows["full"]["zooms"], rows["full"]["frames"], rows["full"]["zoom_rate"]) == (1.0, 24.0, 1.0)
    assert held["zooms"]["full"]["0"]["zoom_rate"] == 0
    assert held["num_questions"] == 20


def test_the_page_shows_them(held):
    table = ablation_page.rows(held)
    assert "| `full` | full | **0.500** |" in table
    assert "0.450, 0.550" in table
    assert "1.5 CPU hours in all, a, one thread a process, 2026-01-02." in table
    budgets = ablation_page.budgets(held)
    assert "| full, at most 4 zooms | 0.300 |" in budgets
    assert "| 48 uniform frames (one seed; a perfect reader: 0.75) | 0.450 |" in budgets


def test_a_perfect_reader_of_uniform_frames():
    from vzoom.train.recipes import recipe_named

    recipe = recipe_named("ablation")
    found = [ablation.ceiling(recipe, frames, [0], 60) for frames in (1, 16, 26, 64, 256)]
    assert found == sorted(found)
    assert found[0] < 0.4
    # Two frames a second show every event of half a second; frames every 1.23 s about half of those that do not linger.
    assert found[3:] == [1, 1]
    assert 0.4 < found[2] < 0.75


def test_answers_at_once_for_a_model_that_never_zooms(tmp_path):
    from training import WORLD, lessons

    from vzoom.data.store import read
    from vzoom.data.tokens import tokenize_record
    from vzoom.models.checkpoint.vocabulary import load_vocabulary
    from vzoom.train.pipeline.stage_store import StageStore
    from vzoom.train.pipeline.stages import PipelineContext
    from vzoom.train.recipes import recipe_named
    from vzoom.zoomer import embedded_path

    _, exemplars = lessons(tmp_path / "data")
    recipe = recipe_named("ablation")
    zoom = ablation.uniform_frames(recipe.zoom, num_frames=24, duration_seconds=32)
    recipe = replace(recipe, zoom=zoom, synthetic=replace(recipe.synthetic, configs={"which": WORLD}))
    base = Path(embedded_path())
    with StageStore(tmp_path / "store", say=lambda line: None) as store:
        made = ablation.direct_answers(PipelineContext(store, recipe), "data", exemplars, model=base)
        records = list(read(made))
    exemplars = list(read(exemplars))
    assert [r.id for r in records] == [e.id for e in exemplars]
    for record, exemplar in zip(records, exemplars, strict=True):
        assert (record.answer, len(record.turns), len(record.glance_seconds)) == (exemplar.reference, 1, 24)
        gaps = {round(b - a, 1) for a, b in zip(record.glance_seconds, record.glance_seconds[1:], strict=False)}
        assert gaps <= {1.2, 1.3, 1.4, 1.5}
        assert any(tokenize_record(record, load_vocabulary(str(base))).learned)


def test_plots_are_whole_and_hold_every_row(held):
    for name, text in ablation_page.plots(held).items():
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg"), name
    assert all(f">{row}<" in ablation_page.plots(held)["ablation.svg"] for row in ablation.ROWS)
    bars = ElementTree.fromstring(ablation_page.plots(held)["ablation.svg"]).findall(".//{*}rect")[1:]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[-1] == pytest.approx(2 * widths[0], abs=0.2)  # .5 and .25


def test_the_document_shows_what_the_results_hold():
    text = write_tables.ABLATION.read_text()
    assert write_tables.fill(text, write_tables.ablation_tables()) == text, "run python bench/write_tables.py"
    path = write_tables.ABLATION.with_suffix(".json")
    if path.is_file():
        for name, plot in ablation_page.plots(json.loads(path.read_text())).items():
            assert (path.parent / name).read_text() == plot, "run python bench/write_tables.py"
