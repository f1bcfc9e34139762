import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.recipe import Recipe, load_recipe, recipe_names


def problems_of(*assignments, name="demo"):
    with pytest.raises(InputError) as caught:
        load_recipe(name, assignments)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_the_way_through_yaml(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_the_known_recipes():
    assert recipe_names() == ["demo", "paper", "small"]
    assert {load_recipe(name).name for name in recipe_names()} == set(recipe_names())


def test_the_paper_recipe_says_what_the_paper_says():
    paper = load_recipe("paper")
    assert (paper.image.size, paper.image.grid) == (384, 8)
    assert (paper.model.embedder.layers, paper.model.decoder.layers) == (7, 10)
    assert (paper.model.hidden_size, paper.model.layers, paper.model.heads) == (1024, 24, 16)
    assert (paper.pretrain.optim.learning_rate, paper.pretrain.optim.schedule) == (8e-4, "constant")
    assert paper.pretrain.masking.naive == 0.2
    assert (paper.pairs.max_train, paper.pairs.max_test) == (30_000, 10_000)
    assert paper.main_row.paper_table1 == paper.main_row.paper_table2 == 0.884


def test_set_changes_one_value():
    recipe = load_recipe("demo", ["pretrain.optim.learning_rate=0.001", "seeds=[3, 4]"])
    assert recipe.pretrain.optim.learning_rate == 0.001
    assert recipe.seeds == (3, 4)


def test_an_unknown_recipe_is_answered_with_the_nearest():
    assert "did you mean `small`" in problems_of(name="smal")[0]


def test_a_mistyped_key_is_answered_with_the_nearest():
    [problem] = problems_of("pretrain.optim.learning_rat=1")
    assert "unknown key `pretrain.optim.learning_rat` (did you mean `learning_rate`?)" in problem


def test_many_mistakes_are_told_at_once():
    problems = problems_of("image.size=-1", "ingest.formats=[]", "finetune.head_dropout=2", "device=tpu", "extra=1")
    told = "\n".join(problems)
    assert len(problems) == 5
    for name in ("image.size", "ingest.formats", "finetune.head_dropout", "device", "extra"):
        assert f"`{name}`" in told


def test_sizes_must_multiply_to_the_grid():
    [problem] = problems_of("image.size=100")
    assert "image.size 100 must be image.grid 4 x the product 16 of model.embedder.strides (= 64)" in problem
    assert "model.decoder.strides" in problem


def test_more_strides_than_layers():
    [problem] = problems_of("model.embedder.strides=[2, 2, 2, 1, 1, 1]")
    assert "6 strides but only 5 layers" in problem


def test_rows_must_name_a_pretraining_and_the_main_row_must_exist():
    [problem] = problems_of("main=recon-mlm-mma", "rows.no-mdo.pretraining=recon")
    assert "no row `recon-mlm-mma` (did you mean `recon-mlm-mam`?)" in problem
    assert "rows.no-mdo.pretraining: no pre-training `recon`" in problem


@pytest.mark.parametrize(
    ("assignments", "told"),
    [
        (["pairs.validation_share=0.5", "pairs.test_share=0.5"], "nothing is left to train on"),
        (["finetune.mdo_text_only=0.6", "finetune.mdo_image_only=0.6"], "at most 1"),
        (["model.heads=5"], "not a multiple of heads"),
    ],
)
def test_values_that_contradict_each_other(assignments, told):
    [problem] = problems_of(*assignments)
    assert told in problem


@settings(max_examples=40, deadline=None)
@given(strides=st.lists(st.integers(1, 4), min_size=1, max_size=5), grid=st.integers(1, 12), size=st.integers(1, 400))
def test_a_recipe_is_accepted_exactly_when_its_sizes_multiply(strides, grid, size):
    assignments = [f"image.size={size}", f"image.grid={grid}"]
    for part in ("embedder", "decoder"):
        assignments += [f"model.{part}.strides={strides}"]
    fits = math.prod(strides) * grid == size and len(strides) <= 5
    try:
        accepted = isinstance(load_recipe("demo", assignments), Recipe)
    except InputError:
        accepted = False
    assert accepted == fits
