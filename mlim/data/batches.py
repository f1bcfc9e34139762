"""What a network is given at a time: padded texts and pictures of items, or of pairs of items."""

from typing import NamedTuple, Self

from torch import Tensor
from torch.nn import functional

from mlim.data.images import as_floats


class Objects(NamedTuple):
    """What there is to see in the pictures of a batch; the boxes of a picture come first, then padding.

    boxes (B, M, 4): centres and sizes (x, y, width, height), in 0..1; labels (B, M) long, `UNKNOWN` at padding;
    attributes (B, M, A) long, `UNKNOWN` where a box has none of a kind; numbers (B,) long: boxes of each picture. A
    picture without boxes is one of which nothing is known: it counts nothing.
    """

    boxes: Tensor
    labels: Tensor
    attributes: Tensor
    numbers: Tensor


class Captions(NamedTuple):
    """Texts about the pictures of a batch.

    ids (B, K, T) long: [CLS] tokens [SEP], then [PAD]; lengths (B, K) long, without [PAD]; 0: a picture has fewer.
    """

    ids: Tensor
    lengths: Tensor


class Questions(NamedTuple):
    """Questions about the pictures of a batch, which may stand in the place of the items' texts.

    ids (B, K, T) long: [CLS] tokens [SEP], then [PAD], T at least that of the texts; lengths (B, K) long, without
    [PAD]; 0: an item has fewer. answers (B, K) long: numbers in the table of answers, `UNKNOWN` where none is in it.
    """

    ids: Tensor
    lengths: Tensor
    answers: Tensor


class RegionLabels(NamedTuple):
    """What is to be seen in stored regions of the pictures of a batch, and how sure that is.

    labels (B, N) and attributes (B, N, K) long, `UNKNOWN` where nothing is known; scores (B, N) and attribute_scores
    (B, N, K) in 0..1.
    """

    labels: Tensor
    scores: Tensor
    attributes: Tensor
    attribute_scores: Tensor


class ItemBatch(NamedTuple):
    """Items for pre-training: [CLS] tokens [SEP] and pictures.

    input_ids (B, T) long; text_attention and maskable (B, T) bool, maskable without [CLS], [SEP], [PAD];
    pixels (B, 3, S, S) of 0..255 (uint8) until `with_floats`, or packed regions (mlim/data/regions.py) in their place,
    as in all batches; objects, captions, labels of stored regions and questions, where a task wants them.
    """

    input_ids: Tensor
    text_attention: Tensor
    maskable: Tensor
    pixels: Tensor
    ids: list[str]
    objects: Objects | None = None
    captions: Captions | None = None
    region_labels: RegionLabels | None = None
    questions: Questions | None = None

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        return self._replace(pixels=as_floats(self.pixels))

    def with_questions(self, questions: Questions, pad: int) -> Self:
        """The batch with questions that may stand in the place of its texts, which become as wide."""
        further = (0, questions.ids.shape[-1] - self.input_ids.shape[1])
        return self._replace(
            input_ids=functional.pad(self.input_ids, further, value=pad),
            text_attention=functional.pad(self.text_attention, further, value=False),
            maskable=functional.pad(self.maskable, further, value=False),
            questions=questions,
        )

    def with_pictures_of(self, rows: Tensor) -> Self:
        """The batch where each item shows the picture of another one, `rows` (B,), with all that belongs to it.

        Questions stay: they are texts.
        """
        objects = None if self.objects is None else Objects(*(part[rows] for part in self.objects))
        captions = None if self.captions is None else Captions(*(part[rows] for part in self.captions))
        labels = None if self.region_labels is None else RegionLabels(*(part[rows] for part in self.region_labels))
        return self._replace(pixels=self.pixels[rows], objects=objects, captions=captions, region_labels=labels)


class PairSide(NamedTuple):
    """One item of every pair of a batch.

    `tokens` (B, T) ids without [CLS] and [SEP], padded; `attention` (B, T) bool, False at padding;
    `pixels` (B, 3, S, S) in [0, 1]. The two sides may differ in T.
    """

    tokens: Tensor
    attention: Tensor
    pixels: Tensor


class PairBatch(NamedTuple):
    """Pairs for matching; the texts of both sides are padded to one length so that sides can be exchanged.

    Tokens are raw ((B, T), no [CLS] and [SEP]: the matcher lays out the sequence); pixels as in `ItemBatch`; labels
    (B,) float of 0 and 1.
    """

    first: PairSide
    second: PairSide
    labels: Tensor
    item_a: list[str]
    item_b: list[str]

    @property
    def ids(self) -> list[str]:
        """Every item in the batch, for messages."""
        return [*self.item_a, *self.item_b]

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        first, second = (side._replace(pixels=as_floats(side.pixels)) for side in (self.first, self.second))
        return self._replace(first=first, second=second)
