"""`import mlim`: what is light, what is loaded from a folder, and how items of a shop are read."""

import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mlim
from mlim.data.tokenize import TextTokenizer
from mlim.matching.items import MISSING_TEXT, ItemError, fields_of, read_items
from mlim.matching.settings import ServingSettings
from mlim.models.config import MlimConfig
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.sources.parquet import parquet_records

SIDE = 16
TEXTS = ("red shirt; cotton", "red shirt; striped", "blue bag; leather")


def build(recipe, read_out="joint", joint_blocks=None, **changed):
    """A small random model with a threshold that its scores lie on both sides of."""
    tokenizer = TextTokenizer.learn(TEXTS, 64)
    network = Mlim.random(MlimConfig.from_recipe(recipe, tokenizer.vocabulary_size), seed=0)
    matcher = Matcher.from_mlim(network, head_dropout=0.0, seed=0, read_out=read_out, joint_blocks=joint_blocks)
    with torch.no_grad():
        for weight in matcher.parameters():
            weight.copy_(torch.empty_like(weight).normal_(0, 0.3, generator=torch.Generator().manual_seed(1)))
    settings = ServingSettings(
        modality="both",
        max_tokens=12,
        image_size=SIDE,
        image_formats=("JPEG",),
        image_megapixels=1.0,
        jpeg_quality=90,
        batch_size=2,
        calibration=(2.0, 0.1),
        **{"threshold": 0.5, **changed},
    )
    return mlim.MatchingModel(matcher, tokenizer, settings, device="cpu")


@pytest.fixture(scope="module")
def model(tiny_recipe):
    return build(tiny_recipe)


def image(shade: int, size: int = SIDE) -> Image.Image:
    return Image.new("RGB", (size, size), (shade, 255 - shade, 40))


def jpeg(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=95)
    return target.getvalue()


def items(number: int) -> list[dict[str, object]]:
    return [{"text": TEXTS[place % len(TEXTS)], "image": jpeg(image(40 * place))} for place in range(number)]


def test_every_public_name_is_there():
    assert all(getattr(mlim, name) is not None for name in mlim.__all__)
    assert set(mlim.__all__) <= set(dir(mlim))
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = mlim.lode


def test_a_saved_model_scores_the_same_again(model, tmp_path):
    pairs = list(zip(items(5)[:-1], items(5)[1:], strict=True))
    model.save(tmp_path / "saved")
    loaded = mlim.load(tmp_path / "saved", device="cpu")
    np.testing.assert_array_equal(loaded.score(pairs), model.score(pairs))
    found = loaded.predict(pairs)
    np.testing.assert_array_equal(found.match, found.score >= 0.5)
    np.testing.assert_array_equal(np.argsort(found.probability), np.argsort(found.score))
    assert not np.array_equal(found.probability, found.score)
    with pytest.raises(mlim.InputError, match="saved exists; choose a new folder"):
        model.save(tmp_path / "saved")


def test_changed_files_are_not_loaded(model, tmp_path):
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "serving.json"
    path.write_text(path.read_text().replace("0.5", "0.4"))
    with pytest.raises(mlim.MlimError, match=r"serving\.json changed"):
        mlim.load(tmp_path / "saved")


@pytest.mark.parametrize(
    "given", [lambda path: path, str, lambda path: path.read_bytes(), lambda path: Image.open(path)], ids=range(4)
)
def test_an_image_may_be_given_in_any_form(model, given, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(image(90)))
    other = items(1)[0]
    expected = model.score([({"text": TEXTS[0], "image": path.read_bytes()}, other)])
    np.testing.assert_allclose(model.score([({"text": TEXTS[0], "image": given(path)}, other)]), expected, atol=1e-3)


def test_fields_are_joined_as_ingest_joins_columns(model):
    picture, other = jpeg(image(90)), items(1)[0]
    fields = {"title": " red  shirt", "size": None, "cloth": "cotton", "image": picture}
    found = model.score([(fields, other), ({"text": "red shirt; cotton", "image": picture}, other)])
    assert found[0] == found[1]
    labelled = model.settings.model_copy(update={"field_labels": {"cloth": "Cloth", "size": "Size"}})
    assert read_items([fields], ["a"], "both", labelled).text("a") == "red shirt; Cloth: cotton"


def test_fields_are_spelled_as_ingest_spells_cells(tmp_path):
    cells = {"stock": [1], "price": [16.0], "ok": [True], "size": [0.1], "cost": [Decimal("16.50")]}
    pq.write_table(pa.table(cells), tmp_path / "a.parquet")
    [ingested] = parquet_records(tmp_path / "a.parquet", "a.parquet", [*cells], None)
    assert ingested == ["1", "16", "true", "0.1", "16.50"]
    [row] = pd.read_parquet(tmp_path / "a.parquet").to_dict("records")
    numpy = {**row, "stock": np.int64(1), "price": np.float32(16), "ok": np.bool_(True), "size": np.float64(0.1)}
    for given in (row, numpy):
        assert [*fields_of(given, "a").values()] == ingested
    nothing = {"a": pd.NA, "b": pd.NaT, "c": np.float32("nan"), "d": float("nan"), "e": None}
    assert {*fields_of(nothing, "a").values()} == {""}


@pytest.mark.parametrize("modality", ["text", "both"])
@pytest.mark.parametrize(
    "words", [{"text": ""}, {"text": " \u200b "}, {"text": "<br>&nbsp;"}, {"title": None, "size": " "}]
)
def test_an_item_without_words_has_no_text(model, words, modality):
    item, cleaning = {**words, "image": jpeg(image(1))}, model.settings.model_copy(update={"clean_texts": True})
    with pytest.raises(ItemError, match=r"a has no text: .* empty; give words, or choose modality=") as caught:
        read_items([item], ["a"], modality, cleaning)
    assert caught.value.code == MISSING_TEXT
    assert read_items([item], ["a"], "image", cleaning).text("a") == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (({"text": "a"}, {"text": "b"}), r"pair 1 is not two items but dict; give \[\(item, item\), \.\.\.\]"),
        (({"text": "a"} for _ in range(2)), "the pairs are no list but generator; give"),
        (pd.DataFrame({"a": [1]}), "the pairs are no list but DataFrame; give"),
        ([({"text": "a"},)], "pair 1 is not two items but 1 of them"),
        ([("ab", {"text": "a"})], "pair 1, item 1 is no item but str; give a mapping such as"),
    ],
)
def test_what_is_no_list_of_pairs_is_answered_with_the_form(model, given, message):
    with pytest.raises(mlim.InputError, match=message):
        model.predict(given, modality="text")


def test_what_is_no_pair_and_no_list_of_items_is_answered_with_the_form(tiny_recipe, model):
    pair = ({"text": "a"}, {"text": "b"})
    with pytest.raises(mlim.InputError, match="the pair is not two items but 1 of them"):
        model.explain([pair], modality="text")
    with pytest.raises(mlim.InputError, match="reference 1 is not two items but dict"):
        model.explain(pair, pair, modality="text")
    with pytest.raises(mlim.InputError, match=r"the items are no list but dict; give \[item, \.\.\.\]"):
        build(tiny_recipe, "separate").encode(pair[0], modality="text")


def test_one_modality_needs_one_part_of_an_item(model):
    texts = [({"text": TEXTS[0]}, {"text": TEXTS[1]})]
    assert model.score(texts, modality="text").shape == (1,)
    assert model.score([({"image": jpeg(image(1))}, {"image": jpeg(image(200))})], modality="image").shape == (1,)
    with pytest.raises(mlim.InputError, match="modality `sound` is none of both, text, image"):
        model.score(texts, modality="sound")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": "a"}, "pair 3, item 2: the image is missing: give `image`"),
        ({"image": b""}, "pair 3, item 2 has no text: give `text` or fields"),
        ({"text": "a", "title": "b"}, "pair 3, item 2 has `text` and also 'title'"),
        ({"title": ["b"]}, "pair 3, item 2: the field `title` is neither a string nor a number but list"),
        ({"text": "a", "image": b""}, r"pair 3, item 2: the image holds 0 bytes \(empty-image\)"),
        ({"text": "a", "image": b"no"}, r"\(not-an-image\)"),
        ({"text": "a", "image": "gone.jpg"}, r"the image gone\.jpg cannot be read"),
        ({"text": "a", "image": "https://x.y/a.jpg"}, r"the image https://x\.y/a\.jpg is an address, which is not"),
        ({"text": "a", "image": Path("s3://x/a.jpg")}, "is an address, which is not fetched; give the path or bytes"),
        ({"text": "a", "image": 3}, "neither a path, the bytes of a file nor a PIL image but int"),
        ({"text": "a" * 30_000, "image": b""}, "pair 3, item 2: the text has 30,000 characters"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(model, item, message):
    good = items(1)[0]
    with pytest.raises(mlim.InputError, match=message):
        model.score([(good, good), (good, good), (good, item)])


def test_items_have_vectors_where_the_model_reads_them_alone(tiny_recipe, model):
    separate = build(tiny_recipe, "separate")
    vectors = separate.encode(items(3))
    assert vectors.shape == (3, 3 * tiny_recipe.model.hidden_size)
    np.testing.assert_allclose(separate.encode(items(1)), vectors[:1], atol=1e-5)
    assert separate.encode([]).shape == (0, vectors.shape[1])
    with pytest.raises(mlim.InputError, match=r"finetune\.read_out joint.* has no vector of one item"):
        model.encode(items(1))


def test_no_pairs_have_no_scores(model):
    assert model.predict([]).match.shape == (0,)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gone", "gone does not exist; give a folder, or a registered version"),
        (".", r"is neither a work folder \(recipe.yaml\) nor a saved model"),
        (
            "champion",
            r"mlflow\.db does not exist; go to the project's folder, or name its registry: tracking_uri=\.\.\.",
        ),
        ("challenger", r"`--set tracking\.uri=sqlite:////PATH/mlflow\.db` of a command"),
        ("models:/mlim-matcher@champion", r"mlflow\.db does not exist"),
    ],
)
def test_a_place_without_a_model_is_named(where, message, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mlim.InputError, match=message):
        mlim.load(where)
    assert not list(Path().iterdir())


def test_a_network_alone_is_no_matching_model(tiny_recipe, tmp_path):
    network = Mlim.random(MlimConfig.from_recipe(tiny_recipe, 64), seed=0)
    network.save_pretrained(tmp_path)
    with pytest.raises(mlim.InputError, match=r"a network without threshold .*mlim\.load_pretrained"):
        mlim.load(tmp_path)
    loaded = mlim.load_pretrained(tmp_path)
    assert torch.equal(loaded.backbone.encoder.blocks[0].qkv.weight, network.backbone.encoder.blocks[0].qkv.weight)
