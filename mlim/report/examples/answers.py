"""Questions with the answers that were given, and statements with what was said of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mlim.annotations.tables import load_questions, load_statements
from mlim.evaluation.evidence import TEST
from mlim.report.examples.dependence import dependence_overlay
from mlim.report.examples.pictures import Pictures, some
from mlim.report.kit.blocks import Block, Card, Fact, Gallery, PairCard, Pairs

BRIGHT = " (bright: what the answer depends on)"
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
