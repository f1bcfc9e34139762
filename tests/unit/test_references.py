"""What papers report and claim, beside the recipes."""

from functools import reduce

import pytest

from mlim.config import parse
from mlim.errors import InputError
from mlim.evaluation.metrics import accuracy, ap, captions, objects, recall
from mlim.experiments import experiment_names, load_experiment
from mlim.recipe import load_recipe
from mlim.references import MLIM, Reference, load_reference, reference_names
from mlim.references.claims import TaskVariants, Variants

KINDS = [figure.name for figure in accuracy.kinds_in(["binary", "number", "open"])]
FIGURES = {
    "answer": [*KINDS, accuracy.CONSISTENCY.name],
    "statement": [accuracy.ALL.name, accuracy.CONSISTENCY.name],
    "retrieval": [figure.name for figure in recall.FIGURES],
    "caption": [figure.name for figure in captions.FIGURES],
    "detect": [figure.name for figure in (*ap.FIGURES, objects.ATTRIBUTES, objects.COUNT)],
}


OTHERS = [name for name in reference_names() if name != MLIM]


def test_claims_and_tables_name_variants_that_the_recipes_have():
    """Claims in passing ask for runs of experiments; equivalence is asked of variants alone."""
    paper, variants = load_reference(MLIM), load_recipe("small").variants.keys()
    assert len({claim.key for claim in paper.claims}) == len(paper.claims)
    compared = [part for claim in paper.claims if not claim.in_passing for part in claim.parts]
    assert {
        variant for part in compared if isinstance(part, Variants) for variant in (part.first, part.second)
    } <= variants
    assert {variant for table in paper.tables for variant in table.variants} <= variants
    assert all(
        isinstance(part, Variants) for claim in paper.claims if claim.reading != "better" for part in claim.parts
    )


@pytest.mark.parametrize("name", OTHERS)
def test_claims_about_tasks_name_variants_of_the_recipe_and_runs_of_experiments(name):
    """Each claim is about one task, and its figure is one that the task's judge gives."""
    paper, variants = load_reference(name), load_recipe("systems").variants
    assert len({claim.key for claim in paper.claims}) == len(paper.claims)
    plans = [load_experiment(name) for name in experiment_names()]
    runs = {run for plan in plans for run in plan.runs if plan.variants[0] in variants}
    for part in (part for claim in paper.claims for part in claim.parts):
        assert isinstance(part, TaskVariants)
        assert part.figure in FIGURES[part.task]
        assert {part.first, part.second} <= {*runs, *(n for n, each in variants.items() if each.task == part.task)}
    assert all(len({part.task for part in claim.parts}) == 1 for claim in paper.claims)
    for table in paper.tables:
        assert table.figure in FIGURES[table.task]
        assert table.variants.keys() <= {*runs, *variants}
        assert all(0 <= value <= 1 for value in table.variants.values())


@pytest.mark.parametrize(("name", "recipe"), [(MLIM, "paper"), ("lxmert", "lxmert"), ("e2e-vlp", "e2e-vlp")])
def test_the_recipe_of_a_paper_has_every_setting_that_it_fixes(name, recipe):
    chosen = load_recipe(recipe)
    for path, fixed in load_reference(name).settings.items():
        found = reduce(lambda at, key: at[key] if isinstance(at, dict) else getattr(at, key), path.split("."), chosen)
        assert (list(found) if isinstance(found, tuple) else found) == fixed.value, path


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
