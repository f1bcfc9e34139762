"""As many pairs as the paper has."""

import pytest
from pair_items import embedded

from mlim.pairs.splits import count_pairs, split_pairs
from mlim.pairs.variation import rule_of, variation_pairs
from mlim.quality.near_duplicates import near_duplicate_links
from mlim.recipe import load_recipe

pytestmark = pytest.mark.integration


CONFIG = load_recipe("paper").pairs


def made_of(description, items, config=CONFIG, seed=0):
    candidates, skipped = variation_pairs(items, rule_of(description.pairs, description.text_columns), seed)
    links = near_duplicate_links(items["image_hash"].tolist(), 0)
    return split_pairs(items, candidates, config, seed, description.pairs, links), skipped


@pytest.mark.timeout(300)  # takes a second or two; what grows with the square of the items takes hours
def test_the_sizes_of_the_paper_are_reached():
    negatives = {"text": 0.2, "image": 0.2, "random": 0.2, "compare": 2000}
    pairs = {"decided_by": ["pattern", "size"], "same": ["product_type"], "mismatches_per_match": 1}
    description, items = embedded({**pairs, "negatives": negatives}, 24_000)
    made, _ = made_of(description, items)
    counts = {split: sum(labels.values()) for split, labels in count_pairs(made.pairs).items()}
    assert (counts["train"], counts["test"]) == (30_000, 10_000)
    assert all(kind["wanted"] == kind["made"] for kinds in made.mismatches.values() for kind in kinds.values())
