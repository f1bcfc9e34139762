"""What papers report and claim, beside the recipes."""

from functools import reduce

import pytest

from mlim.config import parse
from mlim.errors import InputError
from mlim.recipe import load_recipe
from mlim.references import Reference, load_reference, reference_names
from mlim.references.claims import Variants


@pytest.mark.parametrize("name", reference_names())
def test_claims_and_tables_name_variants_that_the_recipes_have(name):
    """Claims in passing ask for runs of experiments; equivalence is asked of variants alone."""
    paper, variants = load_reference(name), load_recipe("small").variants.keys()
    assert len({claim.key for claim in paper.claims}) == len(paper.claims)
    compared = [part for claim in paper.claims if not claim.in_passing for part in claim.parts]
    assert {
        variant for part in compared if isinstance(part, Variants) for variant in (part.first, part.second)
    } <= variants
    assert {variant for table in paper.tables for variant in table.variants} <= variants
    assert all(
        isinstance(part, Variants) for claim in paper.claims if claim.reading != "better" for part in claim.parts
    )


def test_the_paper_recipe_has_every_setting_that_the_paper_fixes():
    paper = load_recipe("paper")
    for path, fixed in load_reference().settings.items():
        assert reduce(getattr, path.split("."), paper) == fixed.value, path


def test_a_difference_is_that_of_the_first_table_with_both_variants():
    mlim = load_reference()
    assert mlim.difference(Variants("recon-mlm-mam", "no-mdo")) == pytest.approx(0.02)
    assert mlim.difference(Variants("no-mdo", "itm-mlm-mam")) is None
    assert (mlim.figure("table1", "no-mdo"), mlim.figure("table2", "no-mdo")) == (0.864, None)
    assert mlim.reports("no-mdo")
    assert not mlim.reports("text-only")


def test_a_mistyped_reference_or_claim_is_one_sentence():
    with pytest.raises(InputError, match="did you mean `mlim`"):
        load_reference("mlmi")
    values = load_reference().model_dump(mode="json")
    values["claims"][0]["parts"][0]["third"] = "x"
    with pytest.raises(InputError, match="third"):
        parse(Reference, values, "reference mlim")
