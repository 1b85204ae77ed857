"""The checkpoint that the package carries: small, readable by stock transformers, and it looks before it answers."""

import pytest

import vzoom
from vzoom.synthetic import evaluate_synthetic
from vzoom.zoomer import embedded_path


@pytest.fixture(scope="module")
def zoomer():
    return vzoom.load("embedded", device="cpu")


def test_it_zooms_to_the_evidence_and_answers(zoomer):
    figures = evaluate_synthetic(zoomer, "which", 8, seed=2026, max_zooms=4)
    assert figures["accuracy"] >= 0.75
    assert figures["hit_rate"] >= 0.75
    assert figures["answered"] == 1
    assert 1 <= figures["mean_zooms"] <= 2


def test_it_counts_what_several_zooms_show(zoomer):
    figures = evaluate_synthetic(zoomer, "count", 16, seed=2026)
    assert figures["accuracy"] >= 0.625  # of 16: two standard errors below what the card says
    assert figures["hit_rate"] >= 0.75
    assert figures["answered"] == 1


def test_without_zooms_it_still_gives_a_letter(zoomer):
    figures = evaluate_synthetic(zoomer, "which", 4, seed=2027, max_zooms=0)
    assert figures["answered"] == 1
    assert figures["mean_zooms"] == 0
    assert figures["hit_rate"] == 0


def test_the_folder_is_small_and_says_what_it_is():
    folder = embedded_path()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10e6
    card = (folder / "README.md").read_text()
    assert "vzoom train pipeline tiny" in card
    assert "knows nothing but" in card
