"""How the served model reads the texts of a request."""

import pandas as pd
import pytest

from mlim.errors import InputError
from mlim.files import write_json
from mlim.matching.settings import ServingSettings
from mlim.recipe import load_recipe
from mlim.serving import Deadline, read_request
from mlim.steps.packaged import serving_settings
from mlim.workspace import Workspace

SENT = pd.DataFrame({"text_a": ["<p>Soft &amp; warm</p>"], "text_b": ["AT&T, size < 40"]})
SETTINGS = {
    "modality": "text",
    "max_tokens": 8,
    "image_size": 16,
    "image_formats": ("PNG",),
    "image_megapixels": 1.0,
    "jpeg_quality": 90,
    "batch_size": 4,
    "threshold": 0.5,
    "calibration": (1.0, 0.0),
}
METRICS = {
    "threshold": 0.5,
    "calibration": {"slope": 1.0, "intercept": 0.0},
    "registered": {"scorer": "matcher"},
    "matcher": {"threshold": 0.5, "slope": 1.0, "intercept": 0.0},
}


@pytest.mark.parametrize(
    ("chosen", "read"),
    [({}, "Soft & warm"), ({"clean_texts": True}, "Soft & warm"), ({"clean_texts": False}, "<p>Soft &amp; warm</p>")],
)
def test_texts_are_read_as_those_that_the_model_learned_from(chosen, read):
    """Point 4: a client sends texts as the shop writes them, and the model reads words, as in training."""
    items = read_request(SENT, 0, "text", ServingSettings(**SETTINGS, **chosen), Deadline())
    assert items.text("a0") == read
    assert items.text("b0") == "AT&T, size < 40"


def test_fields_may_come_along_and_a_wrong_one_is_one_sentence():
    given = SENT.assign(fields_a=['{"title": " Soft  & warm", "size": null}'], fields_b=[None])
    items = read_request(given, 4, "text", ServingSettings(**SETTINGS), Deadline())
    assert items.columns("a0") == {"title": "Soft & warm", "size": ""}
    assert items.columns("b0") == {}
    for wrong, message in [
        ("[1]", "is no JSON object; send the fields"),
        ('{"a": [1]}', "the field `a` is neither"),
        ('{"\\ud800": [1]}', r"the name of a field holds '\\ud800' at character 1, one half of a surrogate pair"),
    ]:
        with pytest.raises(InputError, match=f"row 5, fields_b.*{message}"):
            read_request(SENT.assign(fields_b=[wrong]), 4, "text", ServingSettings(**SETTINGS), Deadline())


@pytest.mark.parametrize(
    ("summary", "cleaned"), [(None, True), ({}, True), ({"clean_texts": True}, True), ({"clean_texts": False}, False)]
)
def test_a_version_reads_texts_as_ingest_did(summary, cleaned, tmp_path):
    """Point 4: also of items that were ingested before that was kept, or that are read from elsewhere."""
    if summary is not None:
        write_json(Workspace(tmp_path).items / "summary.json", summary)
    recipe, workspace = load_recipe("demo"), Workspace(tmp_path)
    write_json(workspace.finetuned(recipe.main, recipe.seeds[0]) / "summary.json", {"max_tokens": 12})
    settings = serving_settings(recipe, workspace, METRICS)
    assert settings.clean_texts is cleaned
    assert settings.field_labels == {}
    assert settings.max_tokens == 12  # as the training found it


@pytest.mark.parametrize(
    ("made", "across"),
    [
        (None, True),  # unknown: pairs that were made before this was counted, or by the user
        ({"family": 8, "random": 0}, False),
        ({"family": 8, "random": 2}, True),
        ({"family": 0, "random": 0}, True),
    ],
)
def test_a_version_tells_whether_it_saw_pairs_across_families(made, across, tmp_path):
    recipe, workspace = load_recipe("demo"), Workspace(tmp_path)
    if made is not None:
        train = {kind: {"made": count, "wanted": count} for kind, count in made.items()}
        write_json(workspace.pairs / "summary.json", {"mismatches": {"train": train}})
    write_json(workspace.finetuned(recipe.main, recipe.seeds[0]) / "summary.json", {"max_tokens": 12})
    assert serving_settings(recipe, workspace, METRICS).trained_across_families is across
