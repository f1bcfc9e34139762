"""What a pass over a batch of items shows and hides, drawn on the CPU before it.

Everything random is a function of (seed, step, place of the sample in the step) alone. So the number of targets of
every loss is known in advance, the training loop can divide by the count over a whole optimiser step, and the step
gives the same losses however it is cut into micro-batches and ranks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from mlim.data.batches import Captions, ItemBatch, Questions
from mlim.data.regions import is_packed, unpack
from mlim.data.seeds import torch_generator
from mlim.losses import UNKNOWN
from mlim.masking import MaskMode, MaskPlan, draw_mam_mode, draw_rows, plan_masks
from mlim.recipe.answer import AnswerTask
from mlim.recipe.pretrain import MaskingConfig, Pretraining


class Caption(NamedTuple):
    """A text about each picture: ids (B, T) long, [CLS] tokens [SEP] and [PAD]; lengths (B,) long, 0: there is none."""

    ids: torch.Tensor
    lengths: torch.Tensor


class PassPlan(NamedTuple):
    """A batch as a pass shows it: some pictures exchanged, some tokens and patches hidden.

    own (B,) bool: whose picture is its own; kept (K,): the rows of these; cells (B, sample): which of the picture's
    vectors are read, None: all; caption: one of the picture's, None where the batch has none; answers (B,) long: of the
    question that an item shows instead of its text, `UNKNOWN` where it shows none, None where the batch has no
    questions; step: of the optimiser, None in validation; chance (B,): a uniform number of each sample, for what a task
    does with some of them.
    """

    batch: ItemBatch
    masks: MaskPlan
    own: torch.Tensor
    kept: torch.Tensor
    cells: torch.Tensor | None = None
    caption: Caption | None = None
    answers: torch.Tensor | None = None
    step: int | None = None
    chance: torch.Tensor | None = None


@dataclass(frozen=True)
class Passes:
    """Plans passes for one training.

    `text_places` and `patches` are how many numbers a sample draws for what may be hidden, whatever its text's length.
    `sample` is how many of the patches are read, drawn by the numbers that would hide them; None: all.
    `hides_regions`: the patches are regions, which are hidden at a rate of their own, by the same numbers.
    `questions` is the probability that an item with questions shows one of them instead of its text.
    `exchange` is the probability that a sample and its neighbour exchange pictures; 0 where no task asks for it.
    """

    config: MaskingConfig
    masking: str | None
    exchange: float
    text_places: int
    patches: int
    seed: int
    sample: int | None = None
    hides_regions: bool = False
    questions: float = 0.0

    @classmethod
    def of(
        cls,
        pretraining: Pretraining,
        config: MaskingConfig,
        swap: float,
        text_places: int,
        patches: int,
        seed: int,
        sample: int | None = None,
    ) -> "Passes":
        """Those of a pre-training; `swap` is the probability of an exchange where one of its tasks wants exchanges."""
        exchange = swap if any(task.exchanges for task in pretraining.all_tasks) else 0.0
        regions = any(task.hides_regions for task in pretraining.all_tasks)
        asked = next((task.questions for task in pretraining.all_tasks if isinstance(task, AnswerTask)), 0.0)
        return cls(config, pretraining.masking, exchange, text_places, patches, seed, sample, regions, asked)

    @property
    def modes(self) -> tuple[MaskMode, ...]:
        """The masking modes that training meets."""
        match self.masking:
            case "naive":
                return (MaskMode.NAIVE,)
            case "text":
                return (MaskMode.TEXT_ONLY,)
            case "mam":
                return (MaskMode.HEAVY_IMAGE, MaskMode.HEAVY_TEXT, MaskMode.LIGHT)
            case _:
                return (MaskMode.UNMASKED,)

    def plan(self, batch: ItemBatch, step: int, first: int, mode: MaskMode | None) -> PassPlan:
        """The pass over the samples from `first` on of a step; `mode` replaces the drawn one (validation)."""
        generator = torch_generator("masks", self.seed, step)
        drawn = draw_mam_mode(generator) if self.masking == "mam" else self.modes[0]
        numbers = [self.text_places, self.patches, 1]  # one for each text position, each patch, and the exchange
        rows = draw_rows(generator, first, len(batch.ids), sum(numbers))
        text, image, exchange = torch.split(rows, numbers, dim=1)
        batch, answers = self._ask(batch, step, first)
        masks = plan_masks(batch.maskable, text, image, mode or drawn, self.config)
        if self.hides_regions:
            masks = masks._replace(image=image < self.config.regions)
        cells = None if self.sample is None else image.argsort(dim=1)[:, : self.sample].sort(dim=1).values
        own = torch.ones(len(batch.ids), dtype=torch.bool)
        if self.exchange:
            batch, own = swap_pictures(batch, exchange[:, 0] < self.exchange, first)
        if is_packed(batch.pixels):  # a region that is not there is not hidden
            masks = masks._replace(image=masks.image & unpack(batch.pixels).present)
        draws = self._draw("captions", step, first, batch)
        captions = None if batch.captions is None else choose_captions(batch.captions, draws)
        return PassPlan(
            batch=batch,
            masks=masks,
            own=own,
            kept=own.nonzero().squeeze(1),
            cells=cells,
            caption=captions,
            answers=answers,
            step=step if mode is None else None,
            chance=self._draw("chance", step, first, batch),
        )

    def _ask(self, batch: ItemBatch, step: int, first: int) -> tuple[ItemBatch, torch.Tensor | None]:
        """The batch where some items show a question instead of their text, and the answers of these."""
        if batch.questions is None:
            return batch, None
        draws = draw_rows(torch_generator("questions", self.seed, step), first, len(batch.ids), 2)
        return show_questions(batch, batch.questions, draws[:, 0] < self.questions, draws[:, 1])

    def _draw(self, what: str, step: int, first: int, batch: ItemBatch) -> torch.Tensor:
        """One uniform number (B,) for each sample."""
        return draw_rows(torch_generator(what, self.seed, step), first, len(batch.ids), 1).squeeze(1)


def choose_captions(captions: Captions, draws: torch.Tensor) -> Caption:
    """One caption of each picture, by a uniform number (B,); of a picture without captions an empty one."""
    numbers = (captions.lengths > 0).sum(dim=1)
    chosen = (draws * numbers).long()
    rows = torch.arange(len(chosen))
    lengths = captions.lengths[rows, chosen]
    return Caption(captions.ids[rows, chosen, : max(1, int(lengths.max()))], lengths)


def show_questions(
    batch: ItemBatch, questions: Questions, asked: torch.Tensor, draws: torch.Tensor
) -> tuple[ItemBatch, torch.Tensor]:
    """The batch where the items `asked` (B,) show a question, chosen by a uniform number (B,), and its answer (B,).

    An item without questions keeps its text; its answer is `UNKNOWN`.
    """
    numbers = (questions.lengths > 0).sum(dim=1)
    rows, places = torch.arange(len(draws)), torch.arange(batch.input_ids.shape[1])
    chosen, asked = (draws * numbers).long(), asked & (numbers > 0)
    lengths, instead = questions.lengths[rows, chosen][:, None], asked[:, None]
    ids = torch.where(instead, questions.ids[rows, chosen], batch.input_ids)
    attention = torch.where(instead, places < lengths, batch.text_attention)
    maskable = torch.where(instead, (places > 0) & (places < lengths - 1), batch.maskable)
    answers = questions.answers[rows, chosen].masked_fill(~asked, UNKNOWN)
    width = int(attention.sum(dim=1).max())
    shown = batch._replace(
        input_ids=ids[:, :width], text_attention=attention[:, :width], maskable=maskable[:, :width], questions=None
    )
    return shown, answers


def swap_pictures(batch: ItemBatch, exchange: torch.Tensor, first: int) -> tuple[ItemBatch, torch.Tensor]:
    """Neighbours of a step (2k, 2k + 1) exchange pictures where `exchange` (B,) says so at 2k; also who kept its own.

    `first` is the place of the batch in its step: neighbours do not depend on how the step is cut into batches of even
    size. A neighbour that is the same item (a catalog smaller than a batch) or in another batch is no partner.
    """
    ids = batch.ids
    places = list(range(len(ids)))
    for even in range(first % 2, len(ids) - 1, 2):
        if exchange[even] and ids[even] != ids[even + 1]:
            places[even], places[even + 1] = even + 1, even
    source = torch.tensor(places)
    return batch.with_pictures_of(source), source == torch.arange(len(ids))
