"""What is told of the item catalog: true, in public layouts, and nothing that decides which items match."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mlim.console import Terminal
from mlim.embedded.families import SIZE_SHARES
from mlim.embedded.generate import Item, plan_items, synthesize
from mlim.embedded.scenes.words import COLOUR_NAMES, NOUNS
from mlim.embedded.told import write_annotations
from mlim.embedded.wording import PATTERN_WORDS
from mlim.errors import InputError

SEED, SIDE = 5, 32


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return plan_items(100, SEED)


@pytest.fixture(scope="module")
def told(items: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told") / "annotations"
    write_annotations(folder, items, SEED, SIDE)
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_every_picture_has_its_product_in_a_box(items: list[Item], told: Path) -> None:
    instances = read(told / "instances.json")
    names = {one["id"]: one["name"] for one in instances["categories"]}
    files = {one["id"]: one["file_name"] for one in instances["images"]}
    by_file = {files[one["image_id"]]: one for one in instances["annotations"]}
    assert by_file.keys() == {item.row["image"] for item in items}
    for item in items:
        found = by_file[item.row["image"]]
        assert names[found["category_id"]] == NOUNS[item.row["product_type"]]
        family = item.member.family
        assert found["attributes"] == {"colour": COLOUR_NAMES[item.member.colour], "material": family.material}
        x, y, width, height = found["bbox"]
        assert 0 <= x < x + width <= SIDE + 1e-3
        assert 0 <= y < y + height <= SIDE + 1e-3
        assert width * height > SIDE * SIDE / 20


def test_what_decides_the_pairs_is_told_nowhere(told: Path) -> None:
    words = " ".join(path.read_text() for path in told.iterdir()).lower()
    for word in (*(word for words in PATTERN_WORDS.values() for word in words), *SIZE_SHARES, "pattern"):
        assert f" {word}" not in words, word
        assert f'"{word}' not in words, word


def test_answers_are_true_and_as_often_yes_as_no(items: list[Item], told: Path) -> None:
    questions = {one["question_id"]: one for one in read(told / "questions.json")["questions"]}
    by_number = dict(enumerate(items, start=1))
    counts: dict[str, Counter] = {}
    for one in read(told / "answers.json")["annotations"]:
        asked, answer = questions[one["question_id"]], one["multiple_choice_answer"]
        if one["question_type"] == "colour":
            assert answer == COLOUR_NAMES[by_number[asked["image_id"]].member.colour]
        counts.setdefault(one["question_type"], Counter())[answer] += 1
    assert {"exists", "colour-is", "colour", "count-product"} <= counts.keys()
    assert counts["exists"]["yes"] == counts["exists"]["no"]
    assert all(len(answers) > 1 for answers in counts.values())  # how many products there are: always one


def test_a_statement_stays_in_one_family(items: list[Item], told: Path) -> None:
    family = {item.row["image"]: item.row["family"] for item in items}
    truths: dict[str, list[str]] = {}
    for line in (told / "statements.jsonl").read_text().splitlines():
        one = json.loads(line)
        assert family[one["left_url"]] == family[one["right_url"]]
        truths.setdefault(one["identifier"].rsplit("-", 2)[0], []).append(one["label"])
    assert truths
    assert all(sorted(labels) == ["False", "False", "True", "True"] for labels in truths.values())


def test_the_catalog_without_them_keeps_its_bytes(tmp_path: Path) -> None:
    for name, annotate in (("plain", None), ("told", write_annotations)):
        quiet = Terminal(quiet=True)
        synthesize(tmp_path / name, 12, SEED, SIDE, workers=1, terminal=quiet, broken=True, annotate=annotate)
    plain, told = tmp_path / "plain", tmp_path / "told"
    files = {path.relative_to(plain) for path in plain.rglob("*") if path.is_file()} - {Path("catalog.yaml")}
    assert all((plain / name).read_bytes() == (told / name).read_bytes() for name in files)
    described = yaml.safe_load((told / "catalog.yaml").read_text())
    assert described.pop("annotations")["files"]["statements"] == ["annotations/statements.jsonl"]
    assert described == yaml.safe_load((plain / "catalog.yaml").read_text())
    assert not (plain / "annotations").exists()


def test_where_products_decide_the_pairs_they_are_not_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="decides the pairs of --task product"):
        synthesize(tmp_path / "c", 12, SEED, SIDE, 1, Terminal(quiet=True), task="product", annotate=write_annotations)
