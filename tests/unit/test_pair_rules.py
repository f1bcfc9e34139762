"""The language of `pairs`: defaults, what contradicts itself, what the model must not read."""

import pytest
from pair_items import described
from pydantic import ValidationError

from mlim.catalog.pair_rules import Negatives, PairRules
from mlim.pairs.variation import rule_of
from mlim.quality.near_duplicates import MAX_DISTANCE
from mlim.recipe import MAX_NEAR_BITS

COLUMNS = {"id": "id", "image": "image", "family": "family", "text": ["title", "colour", "material"]}
RULES = {"decided_by": ["pattern"], "same": ["kind"]}


def test_the_defaults_are_all_pairs_of_the_rule_in_one_direction():
    rules = PairRules(decided_by=("pattern",))
    assert rules.negatives.shares == {"family": 1, "text": 0, "image": 0, "random": 0}
    assert not rules.negatives.cross_families
    assert (rules.mismatches_per_match, rules.max_pairs_per_family, rules.directions) == (None, None, "one")
    assert rules.must_agree(["title"]) == ()


@pytest.mark.parametrize(
    ("given", "family"),
    [({}, 1), ({"text": 0.25}, 0.75), ({"text": 0.5, "random": 0.5}, 0), ({"family": 0.4, "image": 0.6}, 0.4)],
)
def test_families_take_what_the_others_leave(given, family):
    assert Negatives(**given).shares["family"] == pytest.approx(family)


@pytest.mark.parametrize("given", [{"text": 0.7, "image": 0.7}, {"family": 0.5}, {"family": 0.5, "text": 0.6}])
def test_shares_that_do_not_add_up_are_refused(given):
    with pytest.raises(ValidationError, match="must add up to 1"):
        Negatives(**given)


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ({"decided_by": ["colour"]}, r"`colour` decides which pairs match .* take it out of columns\.text"),
        ({**RULES, "hidden": ["title"]}, r"`title` is hidden .* take it out of columns\.text"),
        ({**RULES, "may_vary": ["colr"]}, r"`colr` may vary .* neither in columns\.text nor in pairs\.hidden"),
        ({**RULES, "may_vary": ["kind"]}, r"`kind` is in pairs\.same and in pairs\.may_vary"),
        ({"decided_by": ["pattern"], "same": ["pattern"]}, r"`pattern` is in pairs\.decided_by and in pairs\.same"),
        ({**RULES, "directions": "two"}, "directions"),
        ({**RULES, "mismatches_per_match": 0}, "mismatches_per_match"),
        ({**RULES, "max_pairs_per_family": 0}, "max_pairs_per_family"),
        ({**RULES, "negatives": {"hard": 1}}, "hard"),
    ],
)
def test_what_cannot_be_meant_is_refused(pairs, complaint):
    with pytest.raises(ValidationError, match=complaint):
        described(pairs, COLUMNS)


def test_a_rule_without_families_is_refused():
    columns = {key: value for key, value in COLUMNS.items() if key != "family"}
    with pytest.raises(ValidationError, match=r"name the column in columns\.family"):
        described(RULES, columns)


def test_all_that_may_not_vary_must_agree():
    pairs = {**RULES, "hidden": ["size", "origin"], "may_vary": ["title", "size"]}
    description = described(pairs, COLUMNS)
    assert rule_of(description.pairs, description.text_columns).agree == ("colour", "material", "origin")
    strict = described({**RULES, "may_vary": []}, COLUMNS)
    assert strict.pairs.must_agree(strict.text_columns) == ("title", "colour", "material")


def test_hidden_columns_are_kept_with_the_items_but_not_read():
    pairs = {**RULES, "hidden": ["size"], "negatives": {"random": 1, "same": ["kind", "season"]}}
    description = described(pairs, COLUMNS)
    assert description.metadata_columns == ("pattern", "kind", "size", "season")
    assert set(description.metadata_columns).isdisjoint(description.text_columns)
    assert set(description.metadata_columns) <= set(description.needed_columns)


def test_the_recipe_allows_what_the_search_for_near_copies_can_do():
    assert MAX_NEAR_BITS == MAX_DISTANCE
