"""Captions beside what people wrote."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mlim.evaluation.metrics.captions import rouge, words_of
from mlim.report.examples.pictures import Pictures, some
from mlim.report.kit.blocks import Block, Gallery
from mlim.report.kit.words import clip

REFERENCES = 3  # of a picture, at most
CHARACTERS = 120  # of each


def caption_cards(label: str, scores: pd.DataFrame, pictures: Pictures) -> Iterator[Block]:
    """Texts like the references and texts unlike them, by ROUGE-L of each alone."""
    if scores.empty:
        return
    written = [words_of(text) for text in scores["written"]]
    references = [[words_of(text) for text in texts] for texts in scores["references"]]
    like = rouge(written, references).figures(np.eye(len(written)))[0]
    ranked = scores.iloc[np.argsort(-like, kind="stable")].reset_index(drop=True)
    middle = len(ranked) // 2
    for title, rows in (("most like", ranked[:middle]), ("least like", ranked[middle:])):
        cards = tuple(
            pictures.card(row["id"], row["written"] or "(no word)", note=_references(row["references"]))
            for row in some(rows).to_dict("records")
        )
        if cards:
            yield Gallery(f"Captions of {label}, from the half that is {title} the references", cards)


def _references(texts: list[str]) -> str:
    shown = dict.fromkeys(clip(text, CHARACTERS) for text in texts)
    return f"people: {' / '.join(list(shown)[:REFERENCES])}"
