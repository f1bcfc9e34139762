"""Questions with the answers that were given, and statements with what was said of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mlim.annotations.tables import load_questions, load_statements
from mlim.evaluation.evidence import TEST
from mlim.report.examples.dependence import attention_overlay, dependence_overlay
from mlim.report.examples.pictures import Pictures, some
from mlim.report.kit.blocks import Block, Card, Fact, Gallery, PairCard, Pairs

BRIGHT = " (bright: what the answer depends on)"
WORDS = 6  # of a question, those with the sharpest attention
RIGHT = 0.5  # a score from which on an answer is shown as right: most people gave it

Blind = tuple[str, pd.DataFrame] | None  # the label and the scores of what reads the text alone


def answer_cards(
    label: str, scores: pd.DataFrame, blind: Blind, annotations: Path, pictures: Pictures
) -> Iterator[Block]:
    """Questions that `label` answered rightly and wrongly, with the right answer and what the question alone tells."""
    asked = {row.question_id: row for row in load_questions(annotations, TEST)} if annotations.is_dir() else {}
    known = scores[scores["question_id"].isin(asked)].sort_values("question_id", ignore_index=True)
    for title, rows in _sorted_out(_looked_at(known)).items():
        cards = []
        for row in rows.to_dict("records"):
            question = asked[row["question_id"]]
            truth = max(question.answers, key=lambda answer: question.answers[answer], default="")
            said, overlay = _said(label, row, truth, blind, "question_id"), dependence_overlay(row.get("depends", ()))
            cards.append(pictures.card(row["id"], question.question, said, overlay=overlay))
        if cards:
            bright = BRIGHT if any(card.overlay for card in cards) else ""
            yield Gallery(f"Questions that {label} answers {title}{bright}", tuple(cards))


def attention_cards(label: str, scores: pd.DataFrame, annotations: Path, pictures: Pictures) -> Iterator[Block]:
    """The words of a question that was answered rightly, and of one that was not, each over what it looks at."""
    if "attends" not in scores or not annotations.is_dir():
        return
    asked = {row.question_id: row.question for row in load_questions(annotations, TEST)}
    known = scores[scores["question_id"].isin(asked) & (scores["attends"].map(len) > 0)]
    for title, rows in _sorted_out(known.sort_values("question_id", ignore_index=True)).items():
        for row in rows.head(1).to_dict("records"):
            cards = tuple(_attended(row["id"], word, cells, pictures) for word, cells in _chosen_words(row))
            question = asked[row["question_id"]]
            yield Gallery(f"Where {label} looks in “{question}”, which it answers {title} (last block)", cards)


def _chosen_words(row: Mapping[Any, Any]) -> list[tuple[str, list[float]]]:
    """The words of a question with the sharpest attention, in their order."""
    told = [(word, [*map(float, cells)]) for word, cells in zip(row["words"], row["attends"], strict=True)]
    sharpest = sorted(range(len(told)), key=lambda place: -max(told[place][1]))[:WORDS]
    return [told[place] for place in sorted(sharpest)]


def _attended(item: str, word: str, cells: list[float], pictures: Pictures) -> Card:
    share = Fact("attention to the picture:", f"{sum(cells):.0%}")
    return pictures.card(item, word, (share,), overlay=attention_overlay(cells))


def _looked_at(scores: pd.DataFrame) -> pd.DataFrame:
    """The questions of which is known what their answers depend on; all where that is known of none."""
    looked = scores["depends"].map(len) > 0 if "depends" in scores else pd.Series(data=False, index=scores.index)
    return scores[looked] if looked.any() else scores


def statement_cards(
    label: str, scores: pd.DataFrame, blind: Blind, annotations: Path, pictures: Pictures
) -> Iterator[Block]:
    """Statements about two pictures that `label` judged rightly and wrongly."""
    stated = {row.statement_id: row for row in load_statements(annotations, TEST)} if annotations.is_dir() else {}
    known = scores[scores["statement_id"].isin(stated)].sort_values("statement_id", ignore_index=True)
    for title, rows in _sorted_out(known).items():
        cards = []
        for row in rows.to_dict("records"):
            statement = stated[row["statement_id"]]
            said = _said(label, row, str(statement.label).lower(), blind, "statement_id")
            left: Card = pictures.card(row["left"], "left", said)
            cards.append(PairCard(left, pictures.card(row["right"], "right"), statement.sentence))
        if cards:
            yield Pairs(f"Statements that {label} judges {title}", tuple(cards))


def _sorted_out(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Some that are right and some that are wrong."""
    right = scores["score"] >= RIGHT
    return {"rightly": some(scores[right]), "wrongly": some(scores[~right])}


def _said(label: str, row: Mapping[Any, Any], truth: str, blind: Blind, key: str) -> tuple[Fact, ...]:
    """The right answer, the model's, and that of a model that reads the text alone; marked where they differ."""
    facts = [Fact("right:", truth), Fact(f"{label}:", row["given"], row["score"] < RIGHT)]
    if blind is not None:
        name, scores = blind
        same = scores[scores[key] == row[key]].to_dict("records")
        facts += [Fact(f"{name}:", other["given"], other["score"] < RIGHT) for other in same]
    return tuple(facts)
