"""All numbers needed to build the network again."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from mlim.config import Config
from mlim.data.tokenize import TextTokenizer
from mlim.recipe.base import Probability
from mlim.recipe.image_sides import LiteSide
from mlim.recipe.model import DecoderConfig, EmbedderConfig
from mlim.recipe.systems import NetworkSections

RGB = 3  # channels of a picture
BERT_NORM_EPS = 1e-12
BERT_ACTIVATION = "gelu"
TEXT_SPECIALS = 2  # [CLS] before and [SEP] after the tokens of an item


class SpecialIds(Config):
    """The ids of the special tokens that the network itself writes; as `TextTokenizer.learn` numbers them."""

    cls: NonNegativeInt = 2
    sep: NonNegativeInt = 3
    mask: NonNegativeInt = 4

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> Self:
        """The ids in `tokenizer`."""
        return cls(cls=tokenizer.cls, sep=tokenizer.sep, mask=tokenizer.mask)


class Inputs(Config):
    """What a network reads: token ids below `vocabulary_size` at `text_positions` places, square pictures."""

    vocabulary_size: PositiveInt
    special: SpecialIds = SpecialIds()
    text_positions: PositiveInt
    image_size: PositiveInt

    @classmethod
    def reading(cls, sections: NetworkSections, tokenizer: TextTokenizer, **shape: Any) -> Self:
        """What reads the texts and pictures that a recipe and its tokenizer make, with further fields `shape`."""
        return cls(
            vocabulary_size=tokenizer.vocabulary_size,
            special=SpecialIds.of(tokenizer),
            text_positions=sections.text.limit + TEXT_SPECIALS,
            image_size=sections.image.size,
            **shape,
        )


class MlimConfig(Inputs):
    """Shape of the network; stored beside the weights as JSON."""

    grid: PositiveInt
    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    intermediate_size: PositiveInt
    dropout: Probability
    activation: str = BERT_ACTIVATION
    norm_eps: PositiveFloat = BERT_NORM_EPS
    pair_segments: bool = False
    separate_masks: bool = False
    modality_segments: bool = False
    tied_words: bool = True
    visible_blocks: NonNegativeInt = 0
    embedder: EmbedderConfig
    decoder: DecoderConfig

    @classmethod
    def from_recipe(cls, recipe: NetworkSections, vocabulary_size: int, special: SpecialIds | None = None) -> Self:
        """The network that `recipe` describes, over a vocabulary of the given size."""
        model = recipe.model
        return cls(
            vocabulary_size=vocabulary_size,
            special=special or SpecialIds(),
            text_positions=recipe.text.limit + TEXT_SPECIALS,
            image_size=recipe.image.size,
            grid=recipe.image.grid,
            hidden_size=model.hidden_size,
            layers=model.layers,
            heads=model.heads,
            intermediate_size=model.intermediate_size,
            dropout=model.dropout,
            pair_segments=model.pair_segments,
            separate_masks=model.separate_masks,
            modality_segments=model.modality_segments,
            tied_words=model.tied_words,
            visible_blocks=model.visible_blocks,
            embedder=model.embedder,
            decoder=model.decoder,
        )

    @property
    def features(self) -> LiteSide | None:
        """The frozen network whose vectors are added to the embedder's."""
        return None if self.embedder.features is None else LiteSide(stride=self.image_size // self.grid)

    @property
    def embedder_strides(self) -> list[int]:
        """The stride of every layer of the image embedder: 1 for those after the given ones."""
        strides = self.embedder.strides
        return [*strides, *[1] * (self.embedder.layers - len(strides))]

    @property
    def decoder_strides(self) -> list[int]:
        """The stride of every layer of the image decoder."""
        return layer_strides(self.decoder.strides, self.decoder.layers)

    @property
    def patches(self) -> int:
        """Number of image patches, and of vectors the transformer sees per picture."""
        return self.grid * self.grid


def layer_strides(strides: Sequence[int], layers: int) -> list[int]:
    """The stride of every layer: `strides` in order, and 1 for each of the remaining, blending layers.

    The blending layers are assigned to the enlargements from the last (finest) to the first, as the transformer has
    already blended the patches themselves; when there are more of them than enlargements, the dealing starts again.
    """
    blends = [0] * len(strides)
    for number in range(layers - len(strides)):
        blends[-1 - number % len(strides)] += 1
    return [stride for blend, factor in zip(blends, strides, strict=True) for stride in (*[1] * blend, factor)]
