"""Reviewing pairs: what is asked, the table of answers, the page, and who may answer."""

import json
import re
import shutil
from contextlib import nullcontext

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.matching.review import (
    DISPUTED,
    DOUBTFUL,
    KINDS,
    SAMPLED,
    SCORED_COLUMNS,
    QueuedPair,
    QueueSettings,
    ReviewSession,
    choose_queue,
    shortlist,
)
from mlim.pairs.answers import Answer, AnswerTable, cell_problem, pair_of, settle
from mlim.pairs.user_pairs import read_user_pairs, user_pairs
from mlim.report.contact.items import ShownItem
from mlim.report.review.page import SIGN, ReviewPageSettings, render
from mlim.steps.review import ReviewRequest, import_answers, review_queue, summary_of
from mlim.steps.review_server import build_app

HOSTILE = '<script src="http://evil.example/a.js"></script>'
TOKEN, PORT = "secret", 4711
OURS = f"http://127.0.0.1:{PORT}"


def scored(*rows: tuple[str, str, float | None]) -> pd.DataFrame:
    cells = [(one, other, probability, probability) for one, other, probability in rows]
    return pd.DataFrame(cells, columns=list(SCORED_COLUMNS)).astype({"score": float, "probability": float})


def queue_of(frames, answered=(), disputed=None, families=None, **limits) -> list[QueuedPair]:
    settings = QueueSettings(**{"pairs": 10, "per_item": 100, "per_family": 100, **limits})
    listed = shortlist(frames, set(answered), disputed or {}, settings)
    return choose_queue(listed, families or {}, disputed or {}, settings)


IDS = st.sampled_from("abcdefghij")
ROWS = st.lists(st.tuples(IDS, IDS, st.none() | st.floats(0, 1)), max_size=60)
FAMILIES = {item: str(number // 3) for number, item in enumerate("abcdefghi")} | {"j": None}


@given(ROWS, st.sets(st.tuples(IDS, IDS), max_size=8), st.randoms(), st.integers(6, 60))
def test_no_pair_is_asked_twice_or_again_and_the_order_of_the_table_does_not_matter(rows, known, random, size):
    answered = {pair_of(*pair) for pair in known}
    disputed = {pair_of(one, other): "why" for one, other, _ in rows[:3]}
    limits = {"pairs": 9, "per_item": 2, "per_family": 4}
    found = queue_of([scored(*rows)], answered, disputed, FAMILIES, **limits)
    pairs = [asked.pair for asked in found]
    assert len(set(pairs)) == len(pairs) <= limits["pairs"]
    assert not answered & set(pairs)
    assert all(one < other for one, other in pairs)
    assert all(sum(item in pair for pair in pairs) <= limits["per_item"] for item in "abcdefghij")
    for family in "012":
        assert sum(family in {FAMILIES[item] for item in pair} for pair in pairs) <= limits["per_family"]
    turned = [(other, one, probability) for one, other, probability in rows]
    random.shuffle(turned)
    parts = [scored(*turned[start : start + size]) for start in range(0, len(turned), size)]
    assert queue_of(parts, answered, disputed, FAMILIES, **limits) == found


def test_kinds_take_turns_and_the_most_doubtful_come_first():
    rows = [(f"a{n}", f"b{n}", 0.5 + n / 100) for n in range(40)]
    found = queue_of([scored(*rows)], disputed={("a30", "b30"): "two groups", ("a35", "b35"): "two groups"}, pairs=9)
    assert [asked.kind for asked in found[:6]] == [*KINDS, *KINDS]
    assert [asked.pair[0] for asked in found if asked.kind == DISPUTED] == ["a30", "a35"]
    doubtful = [int(asked.pair[0][1:]) for asked in found if asked.kind == DOUBTFUL]
    assert doubtful == sorted(doubtful)
    assert doubtful[0] < 2  # the sample may have taken one
    assert sum(asked.kind == SAMPLED for asked in found) >= 3
    assert found[0].dispute == "two groups"
    assert found[0].score == "0.800000"


def answer(one: str, other: str, label: str, by: str = "anna", at: str = "2026-01-01T00:00:00+00:00") -> Answer:
    return Answer(one, other, label, by, at, "sha", "0.5")


def test_answers_are_added_once_and_taken_back(tmp_path):
    table = AnswerTable(tmp_path / "new" / "labels.csv")
    first, second = answer("=1+1", "b", "1"), answer("a", "c", "unsure")
    assert table.read() == []
    assert table.add([first]) == 1
    assert table.add([first, second]) == 1
    assert table.read() == [first, second]
    header = table.path.read_text().splitlines()[0]
    assert header == "item_a,item_b,label,by,at,model,score"
    assert table.take_back(first)
    assert not table.take_back(first)
    assert AnswerTable(table.path).read() == [second]
    assert {path.name for path in table.path.parent.iterdir()} <= {"labels.csv", ".labels.csv.lock"}


@pytest.mark.parametrize(
    ("row", "sentence"), [("a,b,yes,x,t,,", "row 2: the label is `yes`"), ("a,b,1,x,t,,,more", "row 2: ")]
)
def test_a_row_that_somebody_has_damaged_is_named(tmp_path, row, sentence):
    table = AnswerTable(tmp_path / "labels.csv")
    table.add([answer("a", "b", "1")])
    table.path.write_text(f"{table.path.read_text()}{row}\n")
    with pytest.raises(InputError, match=sentence):
        table.read()


@pytest.mark.parametrize("text", ["item_a,item_b,label\na,b,1\n", "x\n1\n", "item_a,item_b\n"])
def test_another_table_is_neither_read_nor_written(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=r"labels\.csv: has the columns .*--labels"):
        AnswerTable(tmp_path / "labels.csv").add([answer("a", "b", "1")])
    assert (tmp_path / "labels.csv").read_text() == text


def test_reviewers_who_disagree_contradict_and_a_later_answer_replaces_an_earlier_one():
    found = settle([answer("a", "b", "1"), answer("b", "a", "0", "bob"), answer("c", "d", "0"), answer("c", "d", "1")])
    assert found.labels == {("c", "d"): "1"}
    assert [one.sentence for one in found.contradictions] == ["a and b: anna says match, bob says differs"]
    agreed = settle([answer("a", "b", "1"), answer("a", "b", "0", "bob"), answer("a", "b", "1", "bob")])
    assert agreed.labels == {("a", "b"): "1"}
    early, late = answer("a", "b", "1", at="2026-01-01"), answer("a", "b", "0", at="2026-01-02")
    assert settle([late, early]).labels == {("a", "b"): "0"}  # a file that was imported late
    assert settle([answer("a", "b", "unsure"), answer("a", "b", "0", "bob")]).labels == {("a", "b"): "0"}
    assert settle([answer("a", "b", "unsure")]).unsure == {("a", "b")}


def test_a_mismatch_that_a_chain_of_matches_connects_contradicts_the_shortest_chain():
    chain = [answer("a", "b", "1"), answer("c", "b", "1"), answer("a", "c", "0")]
    found = settle([*chain, answer("c", "x", "1"), answer("x", "y", "0")])
    assert found.contradicting == {("a", "b"), ("b", "c"), ("a", "c")}
    assert [one.sentence for one in found.contradictions] == ["a = b = c, but a differs from c"]
    assert found.labels == {("c", "x"): "1", ("x", "y"): "0"}
    assert settle(chain[:2]).contradictions == ()


def test_answers_are_labels_for_pairs_without_those_that_are_unclear(tmp_path):
    table = AnswerTable(tmp_path / "labels.csv")
    table.add([answer("b", "a", "1"), answer("a", "c", "unsure"), answer("=d", "b", "0"), answer("=d", "c", "1")])
    table.add([answer("c", "=d", "0", "bob"), answer("bad", "a", "1")])
    pairs, skipped = user_pairs(read_user_pairs(table.path), "labels.csv", {"a", "b", "c", "=d"}, {"bad"})
    assert pairs[["item_a", "item_b", "label"]].to_numpy().tolist() == [["=d", "b", 0], ["a", "b", 1]]
    left_out = {"repeated pair": 0, "quarantined item": 1, "unsure answer": 1, "contradicting answers": 1}
    assert skipped == {**left_out, "item has left the catalog": 0}
    table.add([answer("a", "gone", "1"), answer("gone", "lost", "0"), answer("bad", "gone", "1")])
    still, skipped = user_pairs(read_user_pairs(table.path), "labels.csv", {"a", "b", "c", "=d"}, {"bad"})
    pd.testing.assert_frame_equal(still, pairs)
    assert skipped == {**left_out, "item has left the catalog": 3}


def test_answers_about_another_catalog_and_ids_without_their_zeros_are_refused(tmp_path):
    table = AnswerTable(tmp_path / "labels.csv")
    table.add([answer("a", "b", "1"), answer("0", "12", "1")])
    with pytest.raises(InputError, match="item_a `a` is no item of the catalog"):
        user_pairs(read_user_pairs(table.path), "labels.csv", {"x", "y"}, set())
    with pytest.raises(InputError, match="row 2: item_a `0` is no item of the catalog, but `000000` is; a spreadsheet"):
        user_pairs(read_user_pairs(table.path), "labels.csv", {"a", "b", "000000", "12"}, set())
    _, skipped = user_pairs(read_user_pairs(table.path), "labels.csv", {"a", "b", "000", "00", "12"}, set())
    assert skipped["item has left the catalog"] == 1  # which of the two it was is not known


def shown(name: str, text: str) -> ShownItem:
    return ShownItem(name, None, None, text, {}, b"no picture", 1, 1)


ITEMS = {name: shown(name, text) for name, text in (("a", "red shirt, cotton"), ("b", "red shirt"), ("<c>", HOSTILE))}
QUEUE = [
    QueuedPair(("a", "b"), DISPUTED, "lies in two groups", "0.900000"),
    QueuedPair(("<c>", "a"), DOUBTFUL, "", "0.500000"),
]


def page(served: bool, queue=QUEUE) -> str:
    return render(queue, ITEMS, "build/demo", "anna", "sha", ReviewPageSettings(), served=served)


@pytest.mark.parametrize("served", [True, False])
def test_the_page_loads_nothing_says_all_in_words_and_runs_no_script_but_its_own(served):
    found = page(served)
    assert HOSTILE not in found
    assert found.count("<script>") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', found)
    assert SIGN in found
    assert "default-src 'none'; script-src 'sha256-" in found
    assert ("connect-src 'self'" in found) is served
    assert "Only in a: cotton. Only in b: nothing." in found
    assert "disputed: lies in two groups" in found
    assert found.count('<article class="pair"') == 2
    assert ("probability" in found, "0.9<" in found) == (False, False)  # what the model says would lead
    keys = re.findall(r"<kbd>(.)</kbd> (\w+)</button>", found)
    assert keys == [*zip("mduzn", ("match", "differs", "unsure", "undo", "next"), strict=True)] + [("s", "save")] * (
        not served
    )


def test_an_empty_queue_and_an_item_that_is_gone_are_told():
    assert "Nothing is left to review." in page(True, [])
    with pytest.raises(InputError, match="`gone` is no accepted item"):
        page(True, [QueuedPair(("a", "gone"), DOUBTFUL, "", "")])


@pytest.fixture
def served(tmp_path):
    """A client of the server, and the table it writes into."""
    table = AnswerTable(tmp_path / "labels.csv")
    app = build_app(ReviewSession(QUEUE, table, "anna", "sha"), page(served=True), TOKEN, PORT)
    return TestClient(app, base_url=OURS), table


def test_answers_are_stored_at_once_and_undone(served):
    client, table = served
    assert "Do these two items match?" in client.get(f"/{TOKEN}/").text
    assert client.post(f"/{TOKEN}/answers", json={"pair": 1, "label": "0"}).json()["answers"] == {"1": "0"}
    (stored,) = table.read()
    assert stored[:4] == ("<c>", "a", "0", "anna")
    assert (stored.model, stored.score) == ("sha", "0.500000")
    table.add([answer("a", "<c>", "1", "bob")])
    assert "bob says match" in client.get(f"/{TOKEN}/state").json()["contradictions"][0]
    assert client.post(f"/{TOKEN}/undo", json={}).json()["pair"] == 1
    assert client.post(f"/{TOKEN}/undo", json={}).json()["pair"] is None
    assert [one.by for one in table.read()] == ["bob"]


@pytest.mark.parametrize(
    ("place", "headers", "status"),
    [
        ("/wrong/answers", {}, 403),
        ("/answers", {}, 403),
        (f"/{TOKEN}/answers", {"Host": "evil.example"}, 400),
        (f"/{TOKEN}/answers", {"Origin": "http://evil.example"}, 403),
        (f"/{TOKEN}/answers", {"Origin": "null"}, 403),
        (f"/{TOKEN}/answers", {"Content-Type": "text/plain"}, 415),
    ],
)
def test_who_lacks_the_token_or_comes_from_elsewhere_answers_nothing(served, place, headers, status):
    client, table = served
    body = json.dumps({"pair": 0, "label": "1"})
    answered = client.post(place, content=body, headers={"Content-Type": "application/json", **headers})
    assert answered.status_code == status
    assert table.read() == []
    assert client.get("/").status_code == 403


@pytest.mark.parametrize("body", ["", "[]", '{"pair": 0}', '{"pair": true, "label": "1"}', '{"pair": 2, "label": "1"}'])
def test_a_request_that_is_no_answer_changes_nothing(served, body):
    client, table = served
    answered = client.post(f"/{TOKEN}/answers", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code == 400
    assert answered.json()["message"]
    too_large = client.post(f"/{TOKEN}/undo", content=b" " * 20_000, headers={"Content-Type": "application/json"})
    assert too_large.status_code == 413
    assert table.read() == []


def downloaded(**changes) -> str:
    one = {"item_a": "b", "item_b": "a", "label": "1", "at": "2026-01-01T00:00:00.000+01:00", "score": "0.5"}
    return json.dumps({"version": 1, "by": "bob", "model": "sha", "answers": [one], **changes})


def test_a_downloaded_file_is_added_once(tmp_path):
    table, path = AnswerTable(tmp_path / "labels.csv"), tmp_path / "answers.json"
    path.write_text(downloaded())
    assert import_answers(path, table, Terminal(quiet=True))["added"] == 1
    assert import_answers(path, table, Terminal(quiet=True)) == {"added": 0, "there_already": 1, **summary_of(table)}
    assert table.read()[0][:5] == ("a", "b", "1", "bob", "2025-12-31T23:00:00.000+00:00")


@pytest.mark.parametrize(
    "text", ["", "[]", downloaded(version=2), downloaded(by=""), downloaded(answers=[{"label": 1}])]
)
def test_another_file_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(InputError, match=r"--import .*answers\.json: "):
        import_answers(tmp_path / "answers.json", AnswerTable(tmp_path / "labels.csv"), Terminal(quiet=True))
    assert not (tmp_path / "labels.csv").exists()


def test_an_answer_to_a_pair_of_one_item_is_not_imported(tmp_path):
    path, table = tmp_path / "answers.json", AnswerTable(tmp_path / "labels.csv")
    one = {"item_a": "b", "item_b": "b", "label": "1", "at": "2026-01-01T00:00:00.000+01:00", "score": "0.5"}
    path.write_text(downloaded(answers=[{**one, "item_a": "a"}, one]))
    with pytest.raises(InputError, match=r"--import .*answers\.json: answer 2 pairs `b` with itself; remove it"):
        import_answers(path, table, Terminal(quiet=True))
    assert not table.path.exists()


COLUMNS = "item_a,item_b,score,probability"
ROW = "item-000,item-001,0.9,0.93"


def asked_of(path, workspace, compare=None):
    request = ReviewRequest(scores=path, compare=compare)
    return review_queue(request, workspace, AnswerTable(path.with_name("labels.csv")))[0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (f"{COLUMNS}\n{ROW}\n", "utf-8-sig"),
        (f"{COLUMNS}\n{ROW}\n", "utf-16"),
        (f"{COLUMNS}\n{ROW}\n".replace(",", ";"), "utf-8"),
        (f"{COLUMNS}\n{ROW}\n".replace(",", "\t"), "utf-16"),
        (f"{COLUMNS}\nitem-002,item-003\n{ROW}\nitem-004,item-005,nan,NaN\n", "utf-8"),
    ],
)
def test_scores_that_a_spreadsheet_saved_are_reviewed(own_workspace, tmp_path, text, encoding):
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding=encoding)
    (asked,) = asked_of(path, own_workspace, path)
    assert (asked.pair, asked.score) == (("item-000", "item-001"), "0.900000")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{COLUMNS}\n{ROW}\na,b,"0,9","0,93"\n', "row 2: the score `0,9` is no number; write it with a point"),
        (f"{COLUMNS}\na,b,0.9,high\n", "row 1: the probability `high` is no number"),
        (f"{COLUMNS}\n{ROW},more\n", "row 1: line 2: 5 cells, but the header has 4"),
        ("item_a,item_b,score\na,b,1\n", "lacks the columns probability"),
        ("item_a,item_a,item_b,score,probability\na,a,b,1,1\n", "names `item_a` more than once"),
    ],
)
def test_scores_that_cannot_be_reviewed_are_named_by_row_and_value(own_workspace, tmp_path, text, said):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        asked_of(path, own_workspace)
    good = tmp_path / "good.csv"
    good.write_text(f"{COLUMNS}\n{ROW}\n")
    with pytest.raises(InputError, match=said):
        asked_of(good, own_workspace, path)


def test_scores_in_parquet_may_have_numbers_as_ids_and_texts_as_scores(own_workspace, tmp_path):
    path = tmp_path / "scores.parquet"
    cells = {"item_a": [2, None], "item_b": [10, 3], "score": ["0.9", ""], "probability": ["0.9", None]}
    pd.DataFrame(cells).astype({"item_a": "Int64"}).to_parquet(path)
    assert [asked.pair for asked in asked_of(path, own_workspace)] == [("10", "2")]
    path.write_text("no parquet")
    with pytest.raises(InputError, match=r"scores\.parquet: cannot be read as a table of scored pairs"):
        asked_of(path, own_workspace)


def test_conflicts_that_a_spreadsheet_saved_are_named(own_workspace, tmp_path):
    path, conflicts = tmp_path / "scores.csv", own_workspace.groups / "conflicts.csv"
    path.write_text(f"{COLUMNS}\n{ROW}\n")
    conflicts.parent.mkdir(parents=True, exist_ok=True)
    conflicts.write_text("item_a;item_b;score;reason\na;b;1;why\n")
    with pytest.raises(InputError, match=r"conflicts\.csv: lacks one of the columns .*run `mlim group` again"):
        asked_of(path, own_workspace)


def test_contradictions_of_items_that_have_gone_are_left_out(own_workspace, tmp_path):
    table = AnswerTable(tmp_path / "labels.csv")
    pairs = [("item-000", "item-001"), ("item-002", "gone"), ("item-003", "item-004")]
    table.add([Answer(*pair, label, by, "2026-01-01") for pair in pairs for label, by in (("1", "anna"), ("0", "bob"))])
    request = ReviewRequest(contradictions=True)
    asked, _ = review_queue(request, own_workspace, table)
    assert {one.pair for one in asked} == {pairs[0], pairs[2]}
    few = request.model_copy(update={"queue": request.queue.model_copy(update={"pairs": 1})})
    assert len(review_queue(few, own_workspace, table)[0]) == 1
    shutil.rmtree(own_workspace.valid)
    with pytest.raises(InputError, match="no pair with contradicting answers is of accepted items"):
        review_queue(request, own_workspace, table)


TEXT = st.text(st.characters(), min_size=1, max_size=8) | st.text(
    "a\0\n\r\t,;'\"=+@|\ufeff\u2028 ", min_size=1, max_size=8
)


@given(one=TEXT, other=TEXT, by=TEXT)
def test_what_is_added_to_the_table_is_read_again_or_refused(tmp_path_factory, one, other, by):
    """A NUL in an id made every later command fail."""
    table = AnswerTable(tmp_path_factory.mktemp("answers") / "labels.csv")
    first, second = answer("a", "b", "1"), answer(one, other, "0", by)
    table.add([first])
    before = table.path.read_bytes()
    refused = cell_problem(second)
    with pytest.raises(InputError, match="an answer cannot be added: `") if refused else nullcontext():
        table.add([second])
    if refused:
        assert table.path.read_bytes() == before
    else:
        assert table.read() == [first, second]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"item_a": "a\0b"}, r"answer 2: `item_a` holds '\\x00' at character 2, which a table of answers cannot hold"),
        ({"item_b": "x\nb"}, r"answer 2: `item_b` holds '\\n' at character 2"),
        ({"item_a": "a" * 10_001}, "answer 2: `item_a` has 10,001 characters, more than the 10,000 of a cell"),
        ({"score": "9" * 200_000}, "answer 2: `score` has 200,000 characters"),
    ],
)
def test_a_value_that_would_spoil_the_table_is_not_imported(tmp_path, change, sentence):
    path, table = tmp_path / "answers.json", AnswerTable(tmp_path / "labels.csv")
    one = {"item_a": "a", "item_b": "zz", "label": "1", "at": "2026-01-01T00:00:00.000+01:00", "score": "0.5"}
    path.write_text(downloaded(answers=[one, {**one, **change}]))
    with pytest.raises(InputError, match=rf"--import .*answers\.json: {sentence}.*; remove the answer from the file"):
        import_answers(path, table, Terminal(quiet=True))
    assert not table.path.exists()
