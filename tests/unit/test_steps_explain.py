"""`mlim explain`: two ids of a work folder in, why they match or not out."""

import asyncio
import base64
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlim
from mlim.catalog.item import QUARANTINE_SCHEMA
from mlim.console import Terminal
from mlim.data.collate import Pair
from mlim.errors import InputError
from mlim.evaluation.behaviour import fields_of
from mlim.http_api.options import ApiOptions
from mlim.http_api.schema import ScoreRequest
from mlim.http_api.service import Service
from mlim.matching.batch import score_table
from mlim.matching.nearest_pairs import nearest_pairs
from mlim.matching.pairs_table import PairsTable
from mlim.serving import Deadline, read_request
from mlim.stacking.combine import combine
from mlim.stacking.parts import TREES
from mlim.stacking.scorers import MATCHER
from mlim.stacking.stack import Stack
from mlim.steps.behaviour import sent
from mlim.steps.explain import REFERENCES, explain_pair, explain_pairs
from mlim.steps.score import scoring_run
from tests.commands import call
from tests.unit.test_loading import build, items
from tests.unit.test_stacking import few_trees, learned, parts  # noqa: F401 (fixtures)

PAIR = ("item-001", "item-002")


@pytest.fixture(scope="module")
def model(tiny_recipe):
    return build(tiny_recipe)


def explained(model, recipe, workspace, first=PAIR[0], second=PAIR[1]):
    return explain_pair(model, "model", first, second, recipe, workspace)


def test_it_explains_the_score_that_decides(model, tiny_recipe, tiny_workspace):
    pair = explained(model, tiny_recipe, tiny_workspace)
    found = pair.explanation
    store = scoring_run(model, tiny_recipe, tiny_workspace).store
    given = [{"text": store.text(item), "image": store.jpeg(item)} for item in PAIR]
    expected = model.predict([tuple(given)])
    assert found.score == pytest.approx(expected.score[0], abs=1e-6)
    assert pair.probability == pytest.approx(expected.probability[0], abs=1e-6)
    assert found.match == expected.match[0]
    assert found.baseline + sum(one.value for one in found.contributions) == pytest.approx(found.score)
    assert found.effects.shape == (2, tiny_recipe.image.grid, tiny_recipe.image.grid)
    assert pair.compared == f"{REFERENCES} labelled pairs, {REFERENCES // 2} of them matches"
    assert {*pair.nearest[0][:2]} == {*PAIR}
    assert set(pair.shown) == {item for one in pair.nearest for item in one[:2]}
    json.dumps(pair.summary)


def stacked_model(recipe, parts, learned):  # noqa: F811
    """A model with a stack of all parts, and of the matcher alone where columns are not known."""
    scores = parts.scores(learned.items, learned.first, learned.second)
    scores[MATCHER] = np.linspace(0.1, 0.9, len(scores))
    model = build(recipe, scorer="stack")
    told = [name for name in scores if name != TREES]
    model._stack = Stack(parts, combine(scores, told, learned.labels), combine(scores, [MATCHER], learned.labels))
    model._sha256 = "stack"
    return model


def scores_of_table(model, recipe, workspace, folder):
    """What `mlim score` gives the pair."""
    pd.DataFrame([PAIR], columns=["item_a", "item_b"]).to_parquet(folder / "pairs.parquet")
    run = replace(scoring_run(model, recipe, workspace), cache=folder / "cache")
    score_table(run, PairsTable(folder / "pairs.parquet"), folder / "scored.parquet", 1, Terminal(quiet=True))
    return pd.read_parquet(folder / "scored.parquet")["score"].to_numpy()


def test_a_stack_compares_columns_alike_wherever_it_scores(
    tiny_recipe,
    tiny_workspace,
    parts,  # noqa: F811
    learned,  # noqa: F811
    tmp_path,
):
    """Items of a catalog, rows of MLflow's protocol, items of Python and of HTTP."""
    model = stacked_model(tiny_recipe, parts, learned)
    store = scoring_run(model, tiny_recipe, tiny_workspace).store
    expected = scores_of_table(model, tiny_recipe, tiny_workspace, tmp_path)
    rows = next(sent(store, fields_of(pd.DataFrame([PAIR], columns=["item_a", "item_b"])), 1))
    pairs = [Pair("a0", "b0", 0)]
    found, without = (
        model.score_source(read_request(given, 0, "both", model.settings, Deadline()), pairs, "both")
        for given in (rows, rows.drop(columns=["fields_a", "fields_b"]))
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    texts = [{"text": store.text(item), "image": store.jpeg(item)} for item in PAIR]
    np.testing.assert_allclose(without, model.score([tuple(texts)]), atol=1e-6)
    assert not np.allclose(found, without, atol=1e-3)

    fields = [{**store.columns(item), "image": store.jpeg(item)} for item in PAIR]
    joined = [{"text": "; ".join(store.columns(item).values()), "image": store.jpeg(item)} for item in PAIR]
    assert not np.allclose(model.score([tuple(fields)]), model.score([tuple(joined)]), atol=1e-3)
    items_in = [{"fields": store.columns(item), "image": base64.b64encode(store.jpeg(item)).decode()} for item in PAIR]
    request = ScoreRequest.model_validate({"pairs": [dict(zip("ab", items_in, strict=True))]})
    served = asyncio.run(Service(model, ApiOptions()).score(request)).results[0]
    assert served.score == pytest.approx(model.score([tuple(fields)])[0], abs=1e-6)


def test_a_stack_is_explained_as_it_decides(tiny_recipe, tiny_workspace, parts, learned, tmp_path, quiet):  # noqa: F811
    stacked = stacked_model(tiny_recipe, parts, learned)
    stacked.settings = stacked.settings.model_copy(update={"batch_size": 64})
    both = explain_pairs(stacked, [PAIR, PAIR[::-1]], tiny_recipe, tiny_workspace, 0.5, quiet)
    found, turned = both.values()
    assert found.score == pytest.approx(scores_of_table(stacked, tiny_recipe, tiny_workspace, tmp_path)[0], abs=1e-6)
    assert found.baseline + sum(one.value for one in found.contributions) == pytest.approx(found.score)
    for one, other in zip(found.contributions, turned.contributions, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("nope", "item-001"), r"`nope` is no item of .*work; give an id of the catalog, and its work folder"),
        (("item-001", "item-001"), "`item-001` is compared with itself; give the ids of two items"),
        (("item-001", "broken"), r"`broken` was rejected from the catalog \(empty-image\), so that it has no score"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(model, tiny_recipe, own_workspace, pair, message):
    row = {"source": "t", "row": 1, "id": "broken", "stage": "ingest", "reason": "empty-image", "detail": "0 bytes"}
    rows = pa.Table.from_pylist([{**row, "thumbnail": None}], schema=QUARANTINE_SCHEMA)
    pq.write_table(rows, own_workspace.items / "quarantine.parquet")
    with pytest.raises(InputError, match=message):
        explained(model, tiny_recipe, own_workspace, *pair)


def test_without_labelled_pairs_it_compares_with_random_ones_and_says_so(model, tiny_recipe, own_workspace):
    (own_workspace.pairs / "pairs.parquet").unlink()
    pair = explained(model, tiny_recipe, own_workspace)
    assert pair.compared == f"{REFERENCES} random pairs of the catalog's items"
    assert pair.nearest == ()
    assert pair.no_labels.endswith("has no labelled pairs; `mlim pairs` makes them")


def test_many_pairs_are_explained_in_less_detail(model, tiny_recipe, tiny_workspace, quiet):
    pairs = [PAIR, ("item-003", "item-004")]
    found = explain_pairs(model, pairs, tiny_recipe, tiny_workspace, 0.25, quiet)
    assert [*found] == pairs
    for one in found.values():
        assert one.effects is None
        assert one.threshold == 0.25
        assert one.baseline + sum(part.value for part in one.contributions) == pytest.approx(one.score)
    assert explain_pairs(model, [], tiny_recipe, tiny_workspace, 0.25, quiet) == {}


def test_the_nearest_labelled_pairs_are_alike_in_both_items_whatever_their_order():
    catalog = pd.DataFrame(
        {
            "id": ["a", "b", "a2", "b2", "c"],
            "text": ["red shirt", "blue bag", "red shirts", "blue bags", "green scarf"],
            "image_hash": [
                "0f0f0f0f0f0f0f0f",
                "00ff00ff00ff00ff",
                "0f0f0f0f0f0f0f0e",
                "00ff00ff00ff00fe",
                "3333333333333333",
            ],
        }
    )
    rows = [("a2", "c", 0), ("b2", "a2", 1), ("c", "b2", 0)]
    labelled = pd.DataFrame([{"item_a": a, "item_b": b, "label": label, "split": "train"} for a, b, label in rows])
    found = nearest_pairs(catalog, labelled, "a", "b", "both", most=2)
    assert found[0][:4] == ("a2", "b2", True, "train")
    assert len(found) == 2
    assert 1 > found[0].similarity > found[1].similarity > 0
    assert nearest_pairs(catalog, labelled, "b", "a", "both", most=1)[0][:2] == ("b2", "a2")
    by_words = nearest_pairs(catalog, labelled, "a", "b", "text", most=1)[0]
    assert by_words.similarity != found[0].similarity


def test_from_python_with_items_of_the_caller(model):
    striped, plain, *others = items(6)
    pair = ({"title": "red shirt", "cloth": "cotton", "image": striped["image"]}, plain)
    found = model.explain(pair, references=[(others[0], others[1]), (others[2], others[3])])
    assert found.score == pytest.approx(model.score([pair])[0], abs=1e-6)
    assert found.baseline + sum(one.value for one in found.contributions) == pytest.approx(found.score)
    assert found.references == 2
    assert [one.name for one in found.contributions] == ["text", "picture"]  # the other item has one text
    fields = [{"title": title, "cloth": "wool", "image": plain["image"]} for title in ("red shirt", "blue bag")]
    assert [one.name for one in model.explain(tuple(fields)).contributions] == ["title", "cloth", "picture"]
    assert [one.name for one in model.explain(tuple(fields), modality="text").contributions] == ["title", "cloth"]
    with pytest.raises(InputError, match="item 2: the image is missing"):
        model.explain((plain, {"text": "a"}))
    with pytest.raises(InputError, match="reference 1, item 2 has no text"):
        model.explain((plain, plain), references=[(plain, {"image": plain["image"]})])


def test_the_command_prints_words_or_json_and_writes_the_page(model, tiny_workspace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "saved")
    words = ["explain", *PAIR, "--model", "saved", "--work", str(tiny_workspace.root), "--quiet"]
    assert call(monkeypatch, *words, "--out", "page.html") == 0
    assert "What would have to change" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert call(monkeypatch, *words, "--json", "--out", "page.html") == 0
    printed = json.loads(capsys.readouterr().out)
    loaded = mlim.load("saved", device="cpu")
    assert printed == json.loads(json.dumps(loaded.explain_items(*PAIR, work=tiny_workspace.root).summary))
    (tmp_path / "mine.html").write_text("mine")
    assert call(monkeypatch, *words, "--out", "mine.html") == 2
    assert "mine.html: is there already and mlim did not make it" in capsys.readouterr().err
