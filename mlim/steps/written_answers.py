"""Fine-tuning to answer questions about a picture by writing: an answer is right when its words are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pandas as pd
import torch

from mlim.annotations.answers import add_up, normalised
from mlim.annotations.tables import QUESTIONS, load_answers, load_questions
from mlim.console import Terminal
from mlim.data.asked import Asked, WrittenBatch, WrittenCollator
from mlim.data.loader import chunks, fetch_ahead
from mlim.data.tokenize import TextTokenizer
from mlim.data.transfer import to_device
from mlim.errors import InputError
from mlim.evaluation.dependence import dependence
from mlim.models.write import Writing
from mlim.models.writing import Writes, write_further
from mlim.recipe import AnswerConfig
from mlim.steps.answering import asked_of, columns_of
from mlim.steps.asked import looked_at, require_all
from mlim.steps.trained import TEST, TRAIN, VALIDATION
from mlim.steps.tuning import TuningInputs
from mlim.tasks.asked import METRIC
from mlim.tasks.written_answers import WrittenAnswerObjective, answer_chances, shown_of
from mlim.training.held_out import choose_items
from mlim.training.meter import LossMeter
from mlim.training.protocols import TrainResult, Validation

NUMBERS: Final = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NAMES: Final = {str(number): name for number, name in enumerate(NUMBERS)}
"""Words that VQA's evaluation takes for digits; captions and statements have them."""
MOST: Final = 64  # tokens of an answer


class WrittenAnswerTuning:
    """The answering of one variant: its system, the questions, and what their answers are as tokens."""

    examples_name = QUESTIONS

    def __init__(self, given: TuningInputs) -> None:
        self._given, self.planned, self._system = given, given.start, given.start.model
        config, folder = given.recipe.tuning_of(given.variant), given.workspace.annotations
        if not isinstance(config, AnswerConfig) or not isinstance(self._system, Writes):  # refused with the recipe
            raise TypeError(f"system {self._system.kind} with {type(config).__name__} writes no answers")
        self.config, self._writer, self._modality = config, self._system, given.variant.modality
        self._rows = {split: load_questions(folder, split) for split in (TRAIN, VALIDATION, TEST)}
        self._answers = SpelledAnswers(given.tokenizer, load_answers(folder)[: config.answers], self._all_answers())
        numbers = {answer: number for number, answer in enumerate(self._answers.known)}
        self._asked = {split: [asked_of(row, numbers) for row in rows] for split, rows in self._rows.items()}
        require_all(self._asked, QUESTIONS, given.workspace)
        limit = given.recipe.text.limit - self._answers.longest - 1  # both have to fit, with [SEP] between them
        if limit < 1:
            raise InputError(f"answers have up to {self._answers.longest} tokens; raise text.max_tokens")
        asks, tokens = self._modality != "image", [self._answers.tokens[each] for each in self._answers.known]
        self.collate = WrittenCollator(given.pictures, given.tokenizer, limit, tokens, asks)
        self.examples = [one for one in self._asked[TRAIN] if one.right]
        chosen = {*choose_items([one.name for one in self._asked[VALIDATION]], config.validation_questions)}
        places = [place for place, one in enumerate(self._asked[VALIDATION]) if one.name in chosen]
        self._chosen = [(self._asked[VALIDATION][place], self._rows[VALIDATION][place]) for place in places]

    def _all_answers(self) -> list[str]:
        return [answer for rows in self._rows.values() for row in rows for answer in row.answers]

    def objective(self) -> WrittenAnswerObjective:
        """From a batch to its loss, with smoothed labels."""
        return self._objective(self.config.smoothing)

    def _objective(self, smoothing: float) -> WrittenAnswerObjective:
        return WrittenAnswerObjective(self._system, self._writer, smoothing, self._modality)

    def finish(self) -> None:
        """Nothing is left over from training."""

    def validate(self, step: int) -> Validation:
        """Loss without smoothing, and accuracy of what greedy search writes, on questions of the validation split."""
        objective, meter = self._objective(0.0), LossMeter()
        asked, rows = zip(*self._chosen, strict=True)
        for batch in self._batches([one for one in asked if one.right]):
            prepared = objective.prepare(batch, step)
            meter.add(objective.losses(to_device(prepared, self._device)), prepared.counts)
        given = self._write(asked, beam=1, length_penalty=0.0)
        scores = [self._answers.score(answer, row.answers) for row, answer in zip(rows, given, strict=True)]
        return Validation(meter.by_mode(), meter.overall(), sum(scores) / len(scores), METRIC)

    @property
    def _device(self) -> torch.device:
        return next(self._system.parameters()).device

    def _batches(self, asked: Sequence[Asked]) -> Iterable[WrittenBatch]:
        return fetch_ahead(self.collate, chunks(asked, self._given.recipe.evaluate.batch_size))

    @torch.no_grad()
    def _write(self, asked: Sequence[Asked], beam: int, length_penalty: float) -> list[str]:
        """What is written after each question: the answer of these tokens, or the words that they are."""
        tokenizer, given = self._given.tokenizer, list[str]()
        forbidden = (tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.mask)
        settings = Writing(tokenizer.sep, tokenizer.sep, self._answers.longest + 1, beam, length_penalty, forbidden)
        for batch in self._batches(asked):
            here = to_device(batch, self._device).with_floats()
            begun = here.input_ids[:, : int(batch.begun.max())]
            shown = shown_of(here, self._modality)
            given += map(self._answers.read, write_further(self._writer, shown, begun, here.begun, settings))
        return given

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """The answers to both splits: what is known of each question, split, given, score."""
        parts, search = [], (self.config.beam, self.config.length_penalty)
        with result.usable(), terminal.progress(title, 2) as bar:
            for split in (VALIDATION, TEST):
                rows = self._rows[split]
                given = self._write(self._asked[split], *search)
                score = [self._answers.score(answer, row.answers) for row, answer in zip(rows, given, strict=True)]
                found = columns_of(rows).assign(split=split, given=given, score=score)
                if split == TEST and self._modality == "both" and self._given.regions is None:
                    found["depends"] = self._dependence(given, score)
                parts.append(found)
                bar.advance(1, f"{len(rows)} {split} {QUESTIONS}")
        return pd.concat(parts, ignore_index=True)

    def _dependence(self, given: Sequence[str], scores: Sequence[float]) -> list[list[float]]:
        """What the written answers to a few questions of the test split depend on; of the others nothing."""
        found: list[list[float]] = [[] for _ in given]
        for place in looked_at(scores):
            one = self._asked[TEST][place]._replace(right={0: 1.0})
            collate = replace(self.collate, answers=[self._answers.spell(given[place])])
            batch = to_device(collate([one]), self._device).with_floats()
            found[place] = dependence(partial(answer_chances, self._writer, batch), batch.pixels)
        return found

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """Questions, answers that no tokens are known for, and the accuracy by which the best step was chosen."""
        lengths = map(len, self._given.tokenizer.encode_all([one.text for one in self._asked[TEST]]))
        return {
            "task": "answer",
            "by": "text",
            "classes": len(self._answers.known),
            "unwritable_answers": self._answers.unwritable,
            f"training_{QUESTIONS}": len(self.examples),
            f"{QUESTIONS}_seen": result.samples,
            "cut_texts": sum(length > self.collate.max_tokens for length in lengths),
            "best_step": result.best_step,
            "final": {METRIC.name: result.best_value},
        }


class SpelledAnswers:
    """Answers as tokens: digits become words, and what a tokenizer cannot spell cannot be written.

    `known` are those of the train split that can be; any other answer, too, is right when its tokens are written.
    """

    def __init__(self, tokenizer: TextTokenizer, known: Sequence[str], others: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        answers = list(dict.fromkeys([*known, *others]))
        spelled = tokenizer.encode_all([NAMES.get(answer, answer) for answer in answers])
        self.tokens = {
            answer: ids for answer, ids in zip(answers, spelled, strict=True) if ids and tokenizer.unknown not in ids
        }
        self.known = [answer for answer in known if answer in self.tokens]
        self.unwritable = len(known) - len(self.known)
        self.longest = max((len(self.tokens[answer]) for answer in self.known), default=0)
        self._read = {tuple(ids): answer for answer, ids in reversed(self.tokens.items())}

    def spell(self, answer: str) -> Sequence[int]:
        """The tokens of an answer, of one that `read` made of words, too."""
        return self.tokens.get(answer) or self._tokenizer.encode(answer, MOST)

    def score(self, given: str, answers: Mapping[str, float]) -> float:
        """What people gave to an answer in all its spellings: VQA's (`a dog`, `dog`), and those of the same tokens."""
        known, tokens = normalised(given), self.tokens.get(given)

        def is_meant(answer: str) -> bool:
            return normalised(answer) == known or (tokens is not None and self.tokens.get(answer) == tokens)

        return add_up(score for answer, score in answers.items() if is_meant(answer))

    def read(self, tokens: Sequence[int]) -> str:
        """The answer that these tokens are; their words where they are none."""
        return self._read.get(tuple(tokens)) or self._tokenizer.text(tokens)
