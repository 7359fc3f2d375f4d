from collections import defaultdict
from dataclasses import replace
from statistics import mean

import pytest

from bn_helpers import records
from bn_helpers.training.recipes import BASE_LR, CHANGES, ENSEMBLE, RECIPES, Settings


def without_words(recipe):
    return replace(recipe, about="")


def test_the_seven_changes_lead_from_the_baseline_to_x5():
    """Catches an eighth change, a change to the value that is there, and two of one field."""
    baseline = RECIPES["bn-baseline"]
    changed = baseline
    for fields in CHANGES.values():
        assert replace(changed, **fields) != changed
        changed = replace(changed, **fields)
    assert len(CHANGES) == 7
    assert without_words(changed) == without_words(RECIPES["bn-x5"])


def test_the_changes_are_those_of_the_paper():
    """Section 4.2.1, and its numbers where it has any."""
    old, new = RECIPES["bn-baseline"], RECIPES["bn-x5"]
    assert (old.faster, new.faster) == (1, 5)
    assert (old.dropout, new.dropout) == (0.4, 0)
    assert old.weight_decay == pytest.approx(5 * new.weight_decay)
    assert old.half_life == 6 * new.half_life
    assert (old.lrn, new.lrn) == (True, False)
    assert (old.shuffle, new.shuffle) == (False, True)
    assert old.distortion > new.distortion > 0
    assert RECIPES["inception"].batch_size == 32


@pytest.mark.parametrize(
    ("name", "origin", "fields"),
    [
        ("bn-baseline", "inception", {"bn": True}),
        ("inception-x5", "inception", {"faster": 5.0}),
        ("bn-x30", "bn-x5", {"faster": 30.0}),
        ("bn-x5-sigmoid", "bn-x5", {"activation": "sigmoid", "init": "xavier"}),
        ("inception-sigmoid", "inception", {"activation": "sigmoid", "init": "xavier"}),
    ],
)
def test_the_others_differ_by_what_they_are_named_after(name, origin, fields):
    assert without_words(RECIPES[name]) == without_words(replace(RECIPES[origin], **fields))


def test_the_ensemble_is_six_different_networks():
    """Section 4.2.3: larger initial weights, Dropout of 5 or 10 %, BN per activation."""
    six = [replace(RECIPES["bn-x30"], **change) for change in ENSEMBLE.values()]
    assert len(set(six)) == 6
    assert {recipe.dropout for recipe in six} == {0, 0.05, 0.1}
    assert {recipe.per_activation for recipe in six} == {False, True}
    assert len({recipe.gain for recipe in six}) == 2
    assert all(recipe.gain >= 1 for recipe in six)


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_halves_as_often_as_it_says(name):
    """Catches a decay to the base's rate, one step too many, and --lr as a factor."""
    recipe = RECIPES[name]
    settings = Settings(recipe, 1000)
    first = recipe.faster * BASE_LR[recipe.model]
    assert settings.lr_at(0) == first
    assert settings.lr_at(recipe.half_life) == pytest.approx(first / 2)
    assert settings.lr_at(3 * recipe.half_life) == pytest.approx(first / 8)
    assert replace(settings, steps=7).lr_at(100) == settings.lr_at(100)
    assert replace(settings, lr=0.7).lr_at(0) == 0.7


def test_it_looks_closely_at_first():
    settings = Settings(RECIPES["bn-x5"], 23, every=2, closely=6, later=5)
    assert [t for t in range(1, 24) if settings.looks_at(t)] == [2, 4, 6, 10, 15, 20, 23]
    assert [t for t in range(1, 6) if Settings(RECIPES["bn-x5"], 5, every=2).looks_at(t)] == [
        2,
        4,
        5,
    ]


def test_the_base_rate_is_the_best_that_was_tried():
    """The record's rule: mean of the last four held-out accuracies, a diverged run counts as 0."""
    if not (records.folder() / "inception_tuning.json").exists():
        pytest.skip("the record inception_tuning has not been made")
    found = defaultdict(list)
    for run in records.read("inception_tuning")["results"]:
        last = [accuracy for _, _, accuracy in run["curve"][-4:]]
        found[run["lr"]].append(mean(last) if run["status"] == "finished" else 0)
    assert {len(runs) for runs in found.values()} == {5}
    best = max(found, key=lambda lr: mean(found[lr]))
    assert min(found) < best < max(found)
    assert BASE_LR["small"] == best


def test_the_papers_network_has_the_papers_rate():
    assert BASE_LR["inception"] == 0.0015
