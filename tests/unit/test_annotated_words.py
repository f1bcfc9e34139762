"""The tokens of recipes that are about annotations: learned from the texts of the train split's, too."""

from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest

from mlim.annotations.tables import CAPTIONS, SCHEMAS, table_file
from mlim.config import override, parse
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.recipe import Recipe, load_recipe
from mlim.steps.stages import define_stages
from mlim.steps.trained import TRAIN, make_tokenizer, open_training_data, with_words
from mlim.workspace import Workspace
from tests.asked_tables import annotate

WORK = Workspace(Path("build/work"))
TASKS = "tasks={answer: {steps: 5}, retrieval: {steps: 5}}"
ASKED = "variants.asked={label: asked, pretraining: null, task: answer}"
UNASKED = ("tasks.answer=null", "variants.asked={task: match}")
FOUND = "variants.found={label: found, pretraining: null, system: v, task: retrieval}"
SYSTEM = "systems={v: {kind: joint, image: {kind: patch, size: 4}, depth: 1, width: 16, heads: 2}}"


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")


def captions_of(workspace: Workspace, *told: tuple[str, str]) -> None:
    """Captions, each with its split."""
    rows = [{"id": "", "split": split, "caption_id": "", "caption": text} for split, text in told]
    with pa.ipc.new_file(str(table_file(workspace.annotations, CAPTIONS)), SCHEMAS[CAPTIONS]) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[CAPTIONS]))


@pytest.fixture
def asked(tiny_recipe, own_workspace):
    """A recipe with questions, and a work folder with annotations whose captions have words of their own."""
    recipe = changed(tiny_recipe, TASKS, ASKED, "text.vocabulary_size=400")
    annotate(own_workspace, open_training_data(recipe, own_workspace).store)
    captions_of(own_workspace, ("train", "zzyx zzyx"), ("test", "жизнь жизнь"))
    return recipe


def test_questions_answers_and_captions_of_the_train_split_can_be_written(asked, own_workspace):
    data = open_training_data(asked, own_workspace)
    tokenizer = make_tokenizer(asked, data, own_workspace)
    for text in ("what colour is it?", "yes", "both have one colour", "zzyx"):
        assert tokenizer.unknown not in tokenizer.encode(text, 99), text
    assert tokenizer.tokens(tokenizer.encode("colour", 9)) == ["colour"]
    assert tokenizer.encode("жизнь", 9) == [tokenizer.unknown]  # of the test split
    items = changed(asked, *UNASKED)
    assert tokenizer.unknown in make_tokenizer(items, data, own_workspace).encode("zzyx", 9)


def test_without_annotations_tokens_are_those_of_the_items_alone(tiny_recipe, tiny_workspace, tmp_path):
    data = open_training_data(tiny_recipe, tiny_workspace)
    assert with_words(tiny_recipe, data, tiny_workspace) is data
    texts = (data.store.text(item) for item in data.items[TRAIN])
    TextTokenizer.learn(texts, tiny_recipe.text.vocabulary_size).save(tmp_path)
    alone = (tmp_path / "tokenizer.json").read_bytes()
    make_tokenizer(tiny_recipe, data, tiny_workspace).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == alone


def test_a_training_follows_the_texts_that_its_tokens_are_learned_from(asked, own_workspace):
    data = open_training_data(asked, own_workspace)
    before = with_words(asked, data, own_workspace).hashes
    assert {name for name in before if name not in data.hashes} == {
        f"annotations/{table}.arrow" for table in ("captions", "questions", "statements")
    }
    captions_of(own_workspace, ("train", "other words"))
    after = with_words(asked, data, own_workspace).hashes
    assert {name for name in after if after[name] != before[name]} == {"annotations/captions.arrow"}


def test_parts_of_a_recipe_have_the_tokens_and_the_keys_of_the_whole(asked, own_workspace):
    """The runs of an experiment are recipes of one variant, and are compared with the recipe's own."""
    whole = changed(asked, SYSTEM, FOUND)
    part = whole.of_task("retrieval")
    data = open_training_data(whole, own_workspace)
    one, other = (make_tokenizer(recipe, data, own_workspace).fingerprint for recipe in (whole, part))
    assert one == other
    assert whole.training_key("finetune", "found") == part.training_key("finetune", "found")
    alone = changed(whole, *UNASKED)
    assert alone.training_key("finetune", "found") != part.training_key("finetune", "found")


def test_annotations_that_were_not_made_are_asked_for(asked, tiny_recipe, tmp_path):
    missing = Workspace(tmp_path / "nothing")
    with pytest.raises(InputError, match="annotations is missing; run `mlim annotate` first"):
        with_words(asked, None, missing)  # type: ignore[arg-type]
    captions = changed(tiny_recipe, "tasks={caption: {}}")
    assert captions.annotations == {"captions"}


@pytest.mark.parametrize("name", ["demo", "small", "paper"])
def test_recipes_of_items_alone_read_no_annotations(name):
    recipe = load_recipe(name)
    assert not recipe.annotations
    defined = define_stages(recipe, WORK)
    assert not any("annotations" in str(path) for each in defined.values() for path in chain(each.reads, each.writes))


def test_every_training_of_the_systems_reads_what_its_tokens_are_learned_from():
    recipe = load_recipe("systems-demo")
    learned = {table_file(WORK.annotations, table) for table in ("captions", "questions", "statements")}
    trained = [each for each in define_stages(recipe, WORK).values() if each.command == "pretrain"]
    assert trained
    assert all(learned <= {*each.reads} for each in trained)
