"""What the training steps refuse before they do any work."""

import shutil

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mlim.config import override, parse
from mlim.errors import InputError, MlimError
from mlim.files import mark, write_json
from mlim.recipe import Recipe
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.steps.trained import result_folder


def test_an_unknown_name_gets_the_nearest_one(tiny_recipe, tiny_workspace, quiet):
    with pytest.raises(InputError, match="did you mean `recon-mlm-mam`"):
        pretrain(tiny_recipe, tiny_workspace, quiet, "recon-mlm-man", 0)
    with pytest.raises(InputError, match="did you mean `no-mdo`"):
        finetune(tiny_recipe, tiny_workspace, quiet, "no_mdo", 0)


@pytest.mark.parametrize(("folder", "command"), [("items", "ingest"), ("valid", "validate"), ("pairs", "pairs")])
def test_a_missing_step_is_named(tiny_recipe, own_workspace, quiet, folder, command):
    shutil.rmtree(own_workspace.root / folder)
    with pytest.raises(InputError, match=rf"is missing; run `mlim {command}` first"):
        pretrain(tiny_recipe, own_workspace, quiet, "recon-mlm-mam", 0)


def test_a_row_needs_its_pre_training(tiny_recipe, tiny_workspace, quiet):
    with pytest.raises(InputError, match="run `mlim pretrain recon-mlm-mam --seed 3` first"):
        finetune(tiny_recipe, tiny_workspace, quiet, tiny_recipe.main, 3)


def test_a_pre_training_of_other_settings_is_no_start(tiny_recipe, own_workspace, quiet):
    folder = own_workspace.pretrained("recon-mlm-mam", 0)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").touch()
    write_json(folder / "summary.json", {"settings": "of another recipe"})
    with pytest.raises(
        InputError, match="was pre-trained with other settings than those of recipe tiny; run `mlim pre"
    ):
        finetune(tiny_recipe, own_workspace, quiet, tiny_recipe.main, 0)


def test_a_batch_in_which_pictures_are_exchanged_is_even(tiny_recipe):
    values = override(tiny_recipe.model_dump(mode="json"), ["pretrain.batch_size=7"])
    with pytest.raises(InputError, match=r"recon-itm-mlm-mam: two neighbours .* pretrain.batch_size 7 must be even"):
        parse(Recipe, values, "recipe tiny")


def test_pictures_of_another_size_are_refused(tiny_recipe, tiny_workspace, quiet):
    embedder = tiny_recipe.model.embedder.model_copy(update={"strides": (2, 2, 2)})
    model = tiny_recipe.model.model_copy(update={"embedder": embedder})
    image = tiny_recipe.image.model_copy(update={"size": 32})
    with pytest.raises(InputError, match=r"pictures of 16 x 16 pixels but image.size is 32"):
        pretrain(
            tiny_recipe.model_copy(update={"image": image, "model": model}), tiny_workspace, quiet, "recon-mlm-mam", 0
        )


def test_pairs_of_one_label_teach_nothing(tiny_recipe, own_workspace, quiet):
    path = own_workspace.pairs / "pairs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.equal(table["label"], 1)), path)
    with pytest.raises(InputError, match="train split needs pairs of both labels"):
        finetune(tiny_recipe, own_workspace, quiet, "no-pretraining", 0)


def test_pairs_of_another_validation_are_refused(tiny_recipe, own_workspace, quiet):
    path = own_workspace.valid / "index.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(InputError, match=r"names 1 items that are not in .*item-000.*run `mlim pairs` again"):
        pretrain(tiny_recipe, own_workspace, quiet, "recon-mlm-mam", 0)


def test_results_that_cannot_be_written_leave_the_old_ones(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    mark(out)
    (out / "old").touch()
    with pytest.raises(MlimError, match="run the same command again"), result_folder(out) as folder:
        (folder / "missing" / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "old").exists()
