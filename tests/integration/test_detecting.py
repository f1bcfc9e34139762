"""Fine-tuning to detect, from annotations to figures with intervals and COCO's files."""

import pandas as pd
import pytest

from mlim.annotations.tables import load_questions
from mlim.cli.prepare import prepare
from mlim.cli.session import Session
from mlim.config import override, parse
from mlim.embedded.scenes.facts import Difficulty
from mlim.embedded.scenes.generate import synthesize_scenes
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.recipe import Recipe
from mlim.steps.ablate import ablate
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from tests.decoder_recipe import SETTINGS
from tests.object_tables import annotate

pytestmark = pytest.mark.integration

VARIANTS = {
    "tuned": "",
    "own": ", zero_shot: true",
    "other": ", zero_shot: true, text_of: other",
    "image": ", zero_shot: true, modality: image",
    "tuned-other": ", text_of: other",
}
TOLD = (
    *SETTINGS,
    "tasks.detect={steps: 4, batch_size: 4, validate_every: 2, validation_images: 4}",
    *(
        f"variants.{name}={{label: {name}, pretraining: e2e-vlp, task: detect{told}}}"
        for name, told in VARIANTS.items()
    ),
    "variants.scratch={label: scratch, pretraining: null, system: e2e-vlp, task: detect}",
)
NAMES = (*VARIANTS, "scratch")


def test_objects_are_found_with_their_own_text_anothers_or_none(tiny_recipe, own_workspace, quiet):
    recipe = parse(Recipe, override(tiny_recipe.model_dump(mode="json"), TOLD), "recipe tiny")
    with pytest.raises(InputError, match="no objects are annotated, which task detect learns from"):
        finetune(recipe, own_workspace, quiet, "scratch", 0)
    annotate(own_workspace)
    pretrain(recipe, own_workspace, quiet, "e2e-vlp", 0)
    found = {name: finetune(recipe, own_workspace, quiet, name, 0) for name in NAMES}
    assert [found[name]["steps"] for name in NAMES] == [4, 0, 0, 0, 4, 4]
    assert [found[name]["text_of"] for name in ("own", "other", "image")] == ["own", "other", None]
    scores = {name: pd.read_parquet(own_workspace.finetuned(name, 0) / "scores.parquet") for name in NAMES}
    for one in scores.values():
        assert one["id"].tolist() == scores["own"]["id"].tolist()
        assert [len(rows) for rows in one["found"]] == [4] * len(one)  # as many as queries
    told = {
        name: [row["score"] for rows in scores[name]["found"] for row in rows] for name in ("own", "other", "image")
    }
    assert told["own"] != told["other"] != told["image"] != told["own"]
    truth = scores["own"]["truth"].iloc[0][0]
    assert (truth["x0"], truth["y1"], truth["label"], truth["attributes"].tolist()) == (1.6, 11.2, "left", ["small"])

    main = recipe.main
    variants = {name: recipe.variants[name] for name in (main, *NAMES)}
    path = own_workspace.pairs / "pairs.parquet"
    pd.read_parquet(path).head(0).to_parquet(path)  # as of a catalog without pairs
    assert ablate(recipe.model_copy(update={"variants": variants}), own_workspace, quiet)["tasks"] == ["detect"]
    table = read_json(own_workspace.ablation / "detect.json")
    assert [figure["name"] for figure in table["figures"]] == ["ap", "ap50", "ap75", "ap_small", "attributes", "count"]
    assert 0 <= table["rows"]["tuned"]["ap50"]["value"] <= 1

    results = read_json(own_workspace.finetuned("tuned", 0) / "coco_results.json")
    instances = read_json(own_workspace.finetuned("tuned", 0) / "coco_instances.json")
    test = scores["tuned"][scores["tuned"]["split"] == "test"]
    assert {image["file_name"] for image in instances["images"]} == set(test["id"])
    assert len(results) == 4 * len(test)
    assert results[0].keys() == {"image_id", "category_id", "bbox", "score"}


def test_heads_that_learned_other_names_cannot_be_judged_as_they_are(tiny_recipe, own_workspace, quiet):
    recipe = parse(Recipe, override(tiny_recipe.model_dump(mode="json"), TOLD), "recipe tiny")
    annotate(own_workspace)
    pretrain(recipe, own_workspace, quiet, "e2e-vlp", 0)
    path = own_workspace.annotations / "vocabularies.json"
    write_json(path, {**read_json(path), "labels": ["left", "right", "above"]})
    with pytest.raises(InputError, match="objects have other names than those that pre-training `e2e-vlp` learned"):
        finetune(recipe, own_workspace, quiet, "own", 0)
    assert finetune(recipe, own_workspace, quiet, "tuned", 0)["steps"] == 4


def test_a_catalog_that_is_prepared_for_an_experiment_is_annotated_too(tmp_path, quiet):
    synthesize_scenes(tmp_path / "scenes", 60, 0, 16, 1, quiet, Difficulty())
    told = ["tracking.uri=none", "validation.min_image_side=16"]
    session = Session("systems", told, tmp_path / "work", quiet=True, as_json=False)
    prepare(session, tmp_path / "scenes" / "catalog.yaml")
    assert load_questions(session.workspace.annotations, "test")
    before = (session.workspace.annotations / "summary.json").stat().st_mtime_ns
    prepare(session, tmp_path / "scenes" / "catalog.yaml")
    assert (session.workspace.annotations / "summary.json").stat().st_mtime_ns == before
