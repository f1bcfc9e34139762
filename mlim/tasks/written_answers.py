"""Answers that are written: the question comes before them, as the beginning of the text (GIT, Wang et al. 2022)."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from mlim.data.asked import WrittenBatch
from mlim.losses import write_loss
from mlim.models.costs import TRAINING
from mlim.models.system import Shown, System
from mlim.models.writing import Writes
from mlim.recipe.base import Modality
from mlim.tasks.pretrain.caption import Written
from mlim.tasks.protocols import ObjectiveOutput, Weighted

LOSS: Final = "answer-text"


class PreparedAnswers(NamedTuple):
    """Questions with their answers, and what is predicted: the tokens of the answers, [SEP] among them."""

    batch: WrittenBatch
    written: Written
    tokens: int
    counts: Mapping[str, float]

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids


def shown_of(batch: WrittenBatch, modality: Modality) -> Shown:
    """What writing looks at: the pictures, or nothing where the words alone are shown."""
    pixels = None if modality == "text" else batch.pixels
    return Shown(batch.input_ids, torch.ones_like(batch.input_ids, dtype=torch.bool), pixels)


def answers_in(batch: WrittenBatch) -> Written:
    """What there is to predict: every token after a question's [SEP]."""
    before, after = batch.input_ids[:, :-1], batch.input_ids[:, 1:]
    places = torch.arange(before.shape[1])
    wanted = (places >= batch.begun[:, None]) & (places < batch.lengths[:, None] - 1)
    return Written(before, wanted.flatten().nonzero().squeeze(1), after[wanted])


def answer_chances(writer: Writes, batch: WrittenBatch, pixels: Tensor) -> Tensor:
    """The log-probabilities (N,) of the one answer in a batch, about each of N pictures (N, 3, S, S) in 0..1."""
    of_each = batch._replace(input_ids=batch.input_ids.expand(len(pixels), -1), pixels=pixels)
    written = answers_in(batch)
    outputs = writer.write(writer.look(shown_of(of_each, "both")), written.ids.expand(len(pixels), -1))
    logits = writer.write_logits(outputs[:, written.places].flatten(0, 1)).float()
    tokens = written.tokens.repeat(len(pixels))[:, None]
    return logits.log_softmax(dim=1).gather(1, tokens).view(len(pixels), -1).sum(dim=1)


class WrittenAnswerObjective:
    """The loss of the answers' tokens, each given picture, question, and the tokens before it."""

    def __init__(self, system: System, writer: Writes, smoothing: float, modality: Modality) -> None:
        self.model, self._writer, self._smoothing, self._modality = system, writer, smoothing, modality
        self.weights = {LOSS: 1.0}
        for module in system.task_modules():  # heads of other tasks get no gradient
            module.requires_grad_(any(module is own for own in writer.writing_modules))

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all: not those of a modality left out."""
        return False

    def prepare(self, batch: WrittenBatch, step: int, first: int = 0) -> PreparedAnswers:
        """Nothing is drawn; what is predicted."""
        written = answers_in(batch)
        pictures = 0 if self._modality == "text" else len(batch.ids) * self.model.patches
        tokens = int(batch.lengths.sum()) + pictures
        return PreparedAnswers(batch, written, tokens, {LOSS: len(written.tokens)})

    def losses(self, prepared: PreparedAnswers) -> ObjectiveOutput:
        """The loss of a prepared batch on the model's device."""
        batch, written = prepared.batch.with_floats(), prepared.written
        seen = self._writer.look(shown_of(batch, self._modality))
        outputs = self._writer.write(seen, written.ids).flatten(0, 1)[written.places]
        term = write_loss(self._writer.write_logits(outputs), written.tokens, self._smoothing)
        return ObjectiveOutput((Weighted(LOSS, term, 1.0),), self._modality)

    def operations(self, prepared: PreparedAnswers) -> float:
        """What a prepared batch costs, forward and backward, over texts of average length with their pictures."""
        items = len(prepared.ids)
        return TRAINING * items * self._writer.writing_operations(float(prepared.batch.lengths.sum()) / items)
