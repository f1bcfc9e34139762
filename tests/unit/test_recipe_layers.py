"""Recipes that say only what differs: what they extend, where each value comes from, keys of earlier versions."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mlim.errors import InputError
from mlim.recipe import Recipe, load_recipe, recipe_names, resolve, stored_recipe
from mlim.recipe.retired import RENAMED
from mlim.recipe.shown import show_recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"
PINNED = Path(__file__).parents[1] / "pinned" / "recipes"


@pytest.fixture
def write(tmp_path):
    def written(text: str, name: str = "shoes.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def problems_of(name: str, *assignments: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_recipe(name, assignments)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_what_its_complete_file_of_earlier_was(name):
    """Defaults and `extends` gave the recipes that ship another form, and no other value; old files are still read."""
    notes: list[str] = []
    old = load_recipe(str(PINNED / f"{name}.yaml"), warn=notes.append)
    assert load_recipe(name) == old
    told = {note.split("`")[1] for note in notes}
    assert told == {"loader.kept_mb", "rows.*.paper_table1", "rows.*.paper_table2"}


def test_a_renamed_key_is_read_wherever_it_stands(write, monkeypatch):
    """In a file, in what it extends, on the command line; what is said by the new name later wins."""
    monkeypatch.setitem(RENAMED, ("pretrain", "iterations"), "steps")
    base = write("extends: small\npretrain: {iterations: 7}\n", "base.yaml")
    notes: list[str] = []
    assert load_recipe(base, warn=notes.append).pretrain.steps == 7
    assert notes == [f"recipe {base}: `pretrain.iterations` is called `steps` now; rename it"]
    shoes = write("extends: base.yaml\npretrain: {steps: 8}\n")
    assert load_recipe(shoes).pretrain.steps == 8
    assert load_recipe(shoes, ["pretrain.iterations=9"]).pretrain.steps == 9


def test_every_setting_has_a_default():
    """A new field never breaks a user's file: only what names a recipe's own parts must be said."""
    fields = Recipe.model_fields
    assert {name for name in fields if fields[name].is_required()} == {"name", "pretrainings", "rows", "main"}


SHOES = """\
extends: small
image: {size: 96, grid: 6}
pretrain:
  steps: 400
  optim: {learning_rate: 0.0005}
pretrainings:
  more-hidden: {losses: [mlm, recon], masking: mam}
rows:
  shoes: {label: shoes, pretraining: more-hidden}
  no-mdo: null
  text-only: {label: words alone}
main: shoes
"""


def test_a_short_recipe_says_only_what_differs(write):
    small, shoes = load_recipe("small"), load_recipe(write(SHOES))
    assert shoes.name == "shoes"
    assert (shoes.image.size, shoes.image.jpeg_quality) == (96, small.image.jpeg_quality)
    optim = shoes.pretrain.optim
    assert (optim.learning_rate, optim.weight_decay) == (0.0005, small.pretrain.optim.weight_decay)
    assert list(shoes.rows) == [*(name for name in small.rows if name != "no-mdo"), "shoes"]
    assert shoes.rows["text-only"] == small.rows["text-only"].model_copy(update={"label": "words alone"})
    assert (shoes.main_row.mdo, shoes.main_row.modality) == (True, "both")
    assert shoes.finetune == small.finetune


def test_a_chain_of_files_is_followed_from_each_file_s_folder(write, tmp_path):
    (tmp_path / "base").mkdir()
    write("extends: small\nseeds: [7]\nseed: 1\nname: other\n", "base/house.yaml")
    shoes = load_recipe(write("extends: base/house.yaml\nseed: 2\n"))
    assert (shoes.name, shoes.seeds, shoes.seed) == ("shoes", (7,), 2)


def test_a_file_that_extends_nothing_has_its_own_rows_alone(write):
    text = "pretrainings: {}\nrows: {mine: {label: mine, pretraining: null}}\nmain: mine\n"
    assert list(load_recipe(write(text)).rows) == ["mine"]


def test_an_entry_of_another_kind_replaces_the_one_below(write):
    """The keys of one network family mean nothing to another."""
    write("extends: small\nsystems: {other: {kind: dual, width: 64}, two: {kind: dual, width: 64}}\n", "base.yaml")
    found = load_recipe(write("extends: base.yaml\nsystems: {other: {kind: mlim}, two: {width: 32}}\n"))
    assert (found.systems["other"].kind, found.systems["two"].kind, found.systems["two"].width) == ("mlim", "dual", 32)


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))
def test_the_examples_of_the_documentation_are_recipes(write, block):
    assert load_recipe(write(block)).name == "shoes"


def test_where_each_value_comes_from(write):
    path = write(SHOES)
    found = resolve(path, ["pretrain.steps=10", "finetune.optim={eps: 0.1}"])
    for location, origin in {
        "image.size": path,
        "image.jpeg_quality": "default",
        "pretrain.steps": "--set",
        "pretrain.optim.weight_decay": "small",
        "finetune.optim.eps": "--set",
        "finetune.optim.betas": "default",
        "rows.text-only.label": path,
        "rows.text-only.modality": "small",
        "rows.text-only.mdo": "small",
        "rows.shoes.mdo": "default",
    }.items():
        assert found.origin(tuple(location.split("."))) == origin, location
    assert found.recipe.finetune.optim.betas == (0.9, 0.999)


def test_a_row_is_removed_on_the_command_line_too():
    assert "text-only" not in load_recipe("demo", ["rows.text-only=null"]).rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: smal\n", "unknown recipe `smal` (did you mean `small`?)"),
        ("extends: [small, demo]\n", "`extends` takes one name or one .yaml file"),
        ("extends: none.yaml\n", "none.yaml: cannot be read"),
        ("extends: shoes.yaml\n", "remove one `extends`"),
        ("extends: small\nimge: {size: 1}\n", "shoes.yaml: unknown key `imge` (did you mean `image`?)"),
        ("extends: small\npretrain: {stepz: 1}\n", "unknown key `pretrain.stepz` (did you mean `steps`?)"),
        ("extends: small\nrows: {no-mod: null}\n", "`rows.no-mod: null` removes nothing (did you mean `no-mdo`?)"),
        ("extends: small\nrows: {recon-mlm-mam: null}\n", "main: no row `recon-mlm-mam`"),
        ("extends: small\npretrain:\n", "`pretrain`: input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_sentence(write, text, told):
    path = write(text)
    [problem] = problems_of(path)
    assert told in problem
    assert "shoes.yaml" in problem


def test_a_circle_of_recipes_is_refused(write):
    write("extends: shoes.yaml\n", "other.yaml")
    [problem] = problems_of(write("extends: other.yaml\n"))
    assert "remove one `extends`" in problem


def test_a_mistake_in_what_is_extended_is_told_of_that_file(write):
    base = write("extends: small\npretrain: {stepz: 1}\n", "base.yaml")
    [problem] = problems_of(write("extends: base.yaml\npretrain: {steps: 0}\n"), "pretrain.steps=5")
    assert problem.startswith(f"recipe {base}: unknown key `pretrain.stepz`")


def test_what_stands_beside_results_reads_no_other_file(write):
    path = Path(write("extends: small\n"))
    with pytest.raises(InputError, match="what stands beside results is complete"):
        stored_recipe(path)
    path.write_text(load_recipe("small").to_yaml(), encoding="utf-8")
    assert stored_recipe(path) == load_recipe("small")


def test_what_is_stored_says_every_value():
    found = resolve("demo")
    said = yaml.safe_load(found.recipe.to_yaml())
    assert Recipe.model_validate(said) == found.recipe
    assert said["pretrain"]["optim"]["eps"] == 1e-8


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_is_the_whole_recipe(name, explain, write):
    text = show_recipe(resolve(name), explain)
    assert load_recipe(write(text)) == load_recipe(name)


def test_what_is_shown_says_where_each_value_comes_from(write):
    path = write("extends: demo\nseeds: [1, 2]\n")
    lines = {line.split(":")[0].strip(): line for line in show_recipe(resolve(path, ["device=cpu"])).splitlines()}
    assert lines["seeds"].endswith(f"# {path}")
    assert lines["device"].endswith("# --set")
    assert lines["vocabulary_size"].endswith("# demo")
    assert lines["jpeg_quality"].endswith("# default")


def test_every_setting_is_explained():
    explained = show_recipe(resolve("demo"), explain=True).splitlines()
    told = {line.strip().split(":")[0] for above, line in pairwise(explained) if above.strip().startswith("#")}
    keys = {key for location in resolve("demo").origins for key in location}
    entries = {name for section in ("rows", "pretrainings") for name in getattr(load_recipe("demo"), section)}
    assert keys - told - entries == set()
