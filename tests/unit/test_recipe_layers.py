"""Recipes that say only what differs: what they extend, where each value comes from, keys of earlier versions."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mlim.errors import InputError
from mlim.recipe import Recipe, complete_recipe, load_recipe, recipe_names, resolve, stored_recipe
from mlim.recipe.retired import RENAMED
from mlim.recipe.shown import show_recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"
PINNED = Path(__file__).parents[1] / "pinned" / "recipes"
EARLIER = sorted(path.stem for path in PINNED.glob("*.yaml"))


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


@pytest.mark.parametrize("name", EARLIER)
def test_a_recipe_is_what_its_complete_file_of_earlier_was(name):
    """Defaults and `extends` gave the recipes that ship another form, and no other value; old files are still read."""
    notes: list[str] = []
    old = load_recipe(str(PINNED / f"{name}.yaml"), warn=notes.append)
    assert load_recipe(name) == old
    keys = {note.split("`")[1] for note in notes}
    assert keys == {"rows", "loader.kept_mb", "variants.*.paper_table1", "variants.*.paper_table2"}


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


FORMER = """\
extends: small
rows:
  shoes: {label: shoes, pretraining: recon-mlm-mam}
  no-mdo: null
"""


def test_the_rows_of_earlier_recipes_are_variants(write):
    """In a file that extends, in one that is extended, and on the command line, with a warning for each."""
    base = write(FORMER, "base.yaml")
    path = write("extends: base.yaml\nvariants: {shoes: {mdo: false}, text-only: null}\nmain: shoes\n")
    notes: list[str] = []
    found = load_recipe(path, ["rows.shoes.modality=text", "rows.image-only=null"], notes.append)
    kept = [name for name in load_recipe("small").variants if name not in {"no-mdo", "text-only", "image-only"}]
    assert list(found.variants) == [*kept, "shoes"]
    assert (found.main_variant.mdo, found.main_variant.modality) == (False, "text")
    assert notes == [f"{where}: `rows` is called `variants` now; rename it" for where in (f"recipe {base}", "--set")]
    named = load_recipe("small", ["rows={text-only: {label: words}}"]).variants["text-only"]
    assert (named.label, named.modality) == ("words", "text")


def test_a_recipe_under_both_names_is_rejected(write):
    [problem] = problems_of(write(f"{FORMER}variants: {{shoes: {{label: other, pretraining: null}}}}\n"))
    assert "has both `rows` and `variants`, its new name" in problem


@pytest.mark.parametrize("name", EARLIER)
def test_the_results_of_an_earlier_recipe_are_those_of_the_new_one(name):
    old, new = stored_recipe(PINNED / f"{name}.yaml"), load_recipe(name)
    assert {one: old.training_key("finetune", one) for one in old.variants} == {
        one: new.training_key("finetune", one) for one in new.variants
    }


def test_dvc_is_given_no_key_of_an_earlier_version(write):
    """It looks for parameters by their names of today."""
    text = load_recipe("small").to_yaml()
    assert complete_recipe(Path(write(text))) == load_recipe("small")
    with pytest.raises(InputError, match="has keys of earlier versions, which DVC does not find; write it anew"):
        complete_recipe(Path(write(text.replace("\nvariants:", "\nrows:"))))


def test_every_setting_has_a_default():
    """A new field never breaks a user's file: only what names a recipe's own parts must be said."""
    fields = Recipe.model_fields
    assert {name for name in fields if fields[name].is_required()} == {"name", "pretrainings", "variants", "main"}


SHOES = """\
extends: small
image: {size: 96, grid: 6}
pretrain:
  steps: 400
  optim: {learning_rate: 0.0005}
pretrainings:
  more-hidden: {losses: [mlm, recon], masking: mam}
variants:
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
    assert list(shoes.variants) == [*(name for name in small.variants if name != "no-mdo"), "shoes"]
    assert shoes.variants["text-only"] == small.variants["text-only"].model_copy(update={"label": "words alone"})
    assert (shoes.main_variant.mdo, shoes.main_variant.modality) == (True, "both")
    assert shoes.finetune == small.finetune


def test_a_chain_of_files_is_followed_from_each_file_s_folder(write, tmp_path):
    (tmp_path / "base").mkdir()
    write("extends: small\nseeds: [7]\nseed: 1\nname: other\n", "base/house.yaml")
    shoes = load_recipe(write("extends: base/house.yaml\nseed: 2\n"))
    assert (shoes.name, shoes.seeds, shoes.seed) == ("shoes", (7,), 2)


def test_a_file_that_extends_nothing_has_its_own_variants_alone(write):
    text = "pretrainings: {}\nvariants: {mine: {label: mine, pretraining: null}}\nmain: mine\n"
    assert list(load_recipe(write(text)).variants) == ["mine"]


def test_an_entry_of_another_kind_replaces_the_one_below(write):
    """The keys of one network family mean nothing to another."""
    write("extends: small\nsystems: {other: {kind: dual, width: 64}, two: {kind: dual, width: 64}}\n", "base.yaml")
    found = load_recipe(write("extends: base.yaml\nsystems: {other: {kind: mlim}, two: {width: 32}}\n"))
    assert (found.systems["other"].kind, found.systems["two"].kind, found.systems["two"].width) == ("mlim", "dual", 32)
    write("extends: small\nsystems: {pixels: {kind: joint, width: 64, image: {kind: cnn, stem: 8}}}\n", "base.yaml")
    pixels = load_recipe(write("extends: base.yaml\nsystems: {pixels: {image: {kind: patch}}}\n")).systems["pixels"]
    assert (pixels.width, pixels.image.kind) == (64, "patch")


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
        "variants.text-only.label": path,
        "variants.text-only.modality": "small",
        "variants.text-only.mdo": "small",
        "variants.shoes.mdo": "default",
    }.items():
        assert found.origin(tuple(location.split("."))) == origin, location
    assert found.recipe.finetune.optim.betas == (0.9, 0.999)


def test_a_variant_is_removed_on_the_command_line_too():
    assert "text-only" not in load_recipe("demo", ["variants.text-only=null"]).variants


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: smal\n", "unknown recipe `smal` (did you mean `small`?)"),
        ("extends: [small, demo]\n", "`extends` takes one name or one .yaml file"),
        ("extends: none.yaml\n", "none.yaml: cannot be read"),
        ("extends: shoes.yaml\n", "remove one `extends`"),
        ("extends: small\nimge: {size: 1}\n", "shoes.yaml: unknown key `imge` (did you mean `image`?)"),
        ("extends: small\npretrain: {stepz: 1}\n", "unknown key `pretrain.stepz` (did you mean `steps`?)"),
        (
            "extends: small\nvariants: {no-mod: null}\n",
            "`variants.no-mod: null` removes nothing (did you mean `no-mdo`?)",
        ),
        ("extends: small\nvariants: {recon-mlm-mam: null}\n", "main: no variant `recon-mlm-mam`"),
        ("extends: small\npretrain:\n", "`pretrain`: input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_sentence(write, text, message):
    path = write(text)
    [problem] = problems_of(path)
    assert message in problem
    assert "shoes.yaml" in problem


def test_a_circle_of_recipes_is_refused(write):
    write("extends: shoes.yaml\n", "other.yaml")
    [problem] = problems_of(write("extends: other.yaml\n"))
    assert "remove one `extends`" in problem


def test_a_mistake_in_what_is_extended_is_reported_of_that_file(write):
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
    described = {line.strip().split(":")[0] for above, line in pairwise(explained) if above.strip().startswith("#")}
    keys = {key for location in resolve("demo").origins for key in location}
    entries = {name for section in ("variants", "pretrainings") for name in getattr(load_recipe("demo"), section)}
    assert keys - described - entries == set()
