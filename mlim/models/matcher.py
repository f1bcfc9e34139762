"""The fine-tuned model: do two items match closely? (paper section 4.2.1)"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mlim.config import Config
from mlim.data.batches import PairSide
from mlim.errors import InputError
from mlim.models.backbone import Backbone
from mlim.models.config import TEXT_SPECIALS, MlimConfig
from mlim.models.costs import embedder_layers, operations_of, transformer_layers
from mlim.models.heads import AttributeHeads, BinaryHead, CompareHead
from mlim.models.initialise import drawn
from mlim.models.mlim import Mlim
from mlim.models.network import Part, RecomputableBlock
from mlim.models.pair_network import PAIR, ItemStates, PairNetwork, PairPacking, ReadPair, equally_long
from mlim.models.storage import plan_model, save_model
from mlim.models.transformer import Packing, pack
from mlim.models.weights import NamedTensors, Planned, named_tensors, on_meta
from mlim.recipe.base import Modality, Probability, ReadOut, is_none

KIND = "matcher"
JOINT_PARTS, SEPARATE_PARTS = 2, 3  # vectors of an item: text, patches; [CLS], text, patches
BACKBONE = "backbone."  # begins the names of what pre-training and fine-tuning share


class MatcherConfig(Config):
    """The backbone's shape and what fine-tuning adds; models saved before there was a choice read out [CLS]."""

    backbone: MlimConfig
    head_dropout: Probability
    read_out: ReadOut = "cls"
    joint_blocks: PositiveInt | None = Field(default=None, exclude_if=is_none)

    @property
    def blocks_alone(self) -> int:
        """How many blocks, from the inputs on, read the items of a joint sequence each by itself."""
        return 0 if self.joint_blocks is None else max(0, self.backbone.layers - self.joint_blocks)


class Matcher(PairNetwork):
    """One logit for a pair of items, without decoder or masking; `read_out` says what the logit is read from.

    `cls` and `joint` encode both items in one sequence, [CLS] text1 patches1 [SEP] text2 patches2 (section 4.2.1):
    `cls` reads the output at [CLS] alone, `joint` also compares the means of each item's outputs. `separate` encodes
    each item as pre-training did, [CLS] text [SEP] patches, and compares the two.

    In a joint sequence the state of an item before the first block that reads both is the same in every pair
    (`item_states`) and is computed once (`join`). That is its embeddings; with `joint_blocks`, by which only so many
    blocks, the last ones, read the sequence of both items, what the blocks below have made of them: there an item's
    text and patches attend to each other alone, and [CLS] and [SEP] each to itself.

    Positions restart in each item, so that both items look as they did in pre-training: tokens count from 1 after
    [CLS] at 0. Nothing but order and [SEP] tells the items of one sequence apart, unless `pair_segments` adds a learned
    vector per item. With `joint` and `separate` the logit does not depend on the order of the items.

    `classes` are those of attributes that are also predicted from the items' vectors in training; the heads
    for them are left out of what is saved (`forget_attributes`).
    """

    def __init__(self, config: MatcherConfig, classes: Sequence[int] = ()) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.head = _head(config)
        self.segments = nn.Embedding(PAIR, config.backbone.hidden_size) if config.backbone.pair_segments else None
        self.attributes = AttributeHeads(_item_width(config), classes) if classes else None

    @classmethod
    def planned(
        cls,
        mlim: Planned[Mlim],
        head_dropout: float,
        seed: int,
        read_out: ReadOut = "cls",
        classes: Sequence[int] = (),
        joint_blocks: int | None = None,
    ) -> Planned[Self]:
        """A matcher to be built on `mlim`'s backbone; its heads are random from `seed`, those of `mlim` are gone."""
        backbone = mlim.model.config
        config = MatcherConfig(
            backbone=backbone, head_dropout=head_dropout, read_out=read_out, joint_blocks=joint_blocks
        )
        matcher = on_meta(lambda: cls(config, classes))

        def weights() -> NamedTensors:
            yield from drawn(matcher, backbone.hidden_size, torch.Generator().manual_seed(seed))
            yield from ((name, value) for name, value in mlim.weights() if name.startswith(BACKBONE))

        return Planned(matcher, weights)

    @classmethod
    def from_mlim(
        cls,
        mlim: Mlim,
        head_dropout: float,
        seed: int,
        read_out: ReadOut = "cls",
        classes: Sequence[int] = (),
        joint_blocks: int | None = None,
    ) -> Self:
        """The same from a network that is built already; its weights are copied."""
        built = Planned(mlim, lambda: iter(named_tensors(mlim).items()))
        return cls.planned(built, head_dropout, seed, read_out, classes, joint_blocks).build()

    @property
    def read_out(self) -> ReadOut:
        """What the logit of a pair is read from."""
        return self.config.read_out

    @property
    def item_width(self) -> int:
        """Numbers in an item's vector (`ReadPair.items`)."""
        return _item_width(self.config)

    @property
    def grid(self) -> int:
        """Patches per side of a picture."""
        return self.config.backbone.grid

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        added = (self.head, self.segments, self.attributes)
        return {
            "embedder": self.backbone.embedders,
            "transformer": [self.backbone],
            "heads": [module for module in added if module is not None],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of its one encoder."""
        return [[block] for block in self.backbone.encoder.levels()]

    def tokens(self, packing: PairPacking, modality: Modality) -> int:
        """Vectors that the transformer reads of a batch: text tokens and image patches, without padding."""
        return packing.tokens

    def operations(self, packing: PairPacking, modality: Modality) -> float:
        """Operations of a forward pass over a batch, of sequences of average length, without the heads."""
        config, alone = self.config.backbone, self.config.blocks_alone
        parts = [(packing.items, alone), (packing.pairs, config.layers - alone)]
        if self.config.read_out == "separate":
            parts = [(packing.items, config.layers)]
        operations, pictures = 0.0, 0
        for each, blocks in parts:
            if each is not None:
                sequences = len(each.attention_mask)
                layers = transformer_layers(config, len(each.indices) / sequences, blocks)
                operations += sequences * operations_of(layers)
                pictures = sequences if each is packing.items else PAIR * sequences
        return operations + (0 if modality == "text" else pictures * operations_of(embedder_layers(config)))

    def read_pair(
        self, first: PairSide, second: PairSide, modality: Modality, packing: PairPacking | None = None
    ) -> ReadPair:
        """Logits, and the vectors of both items: means of an item's text and patch outputs.

        With `separate` its output at [CLS] comes before them. `packing` is what `pack_pairs` gave for this batch, for
        models on a GPU.
        """
        pairs, alone = (None, None) if packing is None else packing
        if self.config.read_out == "separate":
            items = self.item_vectors(_stacked(first, second), modality, alone)
            return ReadPair(self.compare(*items.chunk(PAIR)), items)
        if self.config.blocks_alone:
            states = self._states_of_blocks(_stacked(first, second), modality, alone)
            return self._read_joined(*_unstacked(states), modality, pairs)
        return self._read_pair(first, second, modality, pairs)

    def item_states(self, side: PairSide, modality: Modality) -> ItemStates:
        """Items before the first block that reads both; `InputError` where `read_out` is `separate`."""
        if self.config.read_out == "separate":
            return super().item_states(side, modality)
        if self.config.blocks_alone:
            return self._states_of_blocks(side, modality, None)
        return _split(torch.cat(self._embeddings(side, modality), dim=1), side.attention, modality)

    def join(self, first: ItemStates, second: ItemStates, modality: Modality) -> Tensor:
        """Logits (B,) of pairs from the `item_states` of both sides; `InputError` where `read_out` is `separate`."""
        if self.config.read_out == "separate":
            return super().join(first, second, modality)
        read = self._read_joined if self.config.blocks_alone else self._read_pair
        return read(first, second, modality, None).logits

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (B,) from the `item_vectors` (B, width) of both sides, where `read_out` is `separate`."""
        if self.config.read_out != "separate":
            raise InputError(f"a model with finetune.read_out {self.read_out} compares no vectors of items")
        logits: Tensor = self.head(first, second)
        return logits

    def attribute_logits(self, items: Tensor) -> list[Tensor]:
        """Logits of every attribute (N, classes) from `ReadPair.items`; none once they are forgotten."""
        return [] if self.attributes is None else self.attributes(items)

    def forget_attributes(self) -> None:
        """Drop what only training needs."""
        self.attributes = None

    def item_vectors(self, side: PairSide, modality: Modality, packing: Packing | None = None) -> Tensor:
        """What `separate` compares, (B, 3 * H): the output at [CLS], the means of the text's and the patches' outputs.

        Zeros stand for a modality that is left out and for an empty text.
        """
        text = [] if modality == "image" else [self._text(side)]
        patches = [] if modality == "text" else [self.backbone.embed_image(side.pixels)]
        end = self._special(self.config.backbone.special.sep, _after(modality, side.attention))
        vectors = torch.cat([self._cls(side.attention), *text, end, *patches], dim=1)
        hidden = self.backbone.encode(vectors, self._attention_alone(side.attention, modality), packing)
        length = _text_length(side.attention, modality)
        own = torch.cat([hidden[:, 1 : 1 + length], hidden[:, 2 + length :]], dim=1)  # without [CLS] and [SEP]
        return torch.cat([hidden[:, 0], _means(own, side.attention, modality)], dim=1)

    def _read_pair(
        self, first: PairSide | ItemStates, second: PairSide | ItemStates, modality: Modality, packing: Packing | None
    ) -> ReadPair:
        """What all blocks make of both items in one sequence, from the items or from their embeddings."""
        vectors = (
            self._in_segment(self._cls(first.attention), 0),
            *(self._in_segment(part, 0) for part in self._embeddings(first, modality)),
            self._in_segment(self._sep(first.attention, second.attention, modality), 0),
            *(self._in_segment(part, 1) for part in self._embeddings(second, modality)),
        )
        attention = self._attention(first.attention, second.attention, modality)
        hidden = self.backbone.encode(torch.cat(vectors, dim=1), attention, packing)
        return self._read_out(hidden, first.attention, second.attention, modality)

    def _cls(self, attention: Tensor) -> Tensor:
        """The vectors (B, 1, H) of [CLS]."""
        return self._special(self.config.backbone.special.cls, torch.zeros_like(attention[:, :1], dtype=torch.long))

    def _sep(self, first: Tensor, second: Tensor, modality: Modality) -> Tensor:
        """The vectors (B, 1, H) of [SEP] between two items, from their attentions (B, T)."""
        between = (first, second) if self.config.read_out == "joint" else (first,)
        return self._special(self.config.backbone.special.sep, _after(modality, *between))

    def _states_of_blocks(self, side: PairSide, modality: Modality, packing: Packing | None) -> ItemStates:
        """What the blocks below the joint ones make of items."""
        vectors = torch.cat(self._embeddings(side, modality), dim=1)
        attention = self._attention_of_item(side.attention, modality)
        hidden = self.backbone.encode(vectors, attention, packing, end=self.config.blocks_alone)
        return _split(hidden, side.attention, modality)

    def _read_joined(
        self, first: ItemStates, second: ItemStates, modality: Modality, packing: Packing | None
    ) -> ReadPair:
        """What the joint blocks make of two items, of [CLS] and of [SEP]."""
        alone = self.config.blocks_alone
        specials = torch.cat([self._cls(first.attention), self._sep(first.attention, second.attention, modality)])
        everywhere = first.attention.new_ones(specials.shape[:2])
        hidden, pairs = self.backbone.encode(specials, everywhere, end=alone), len(first.attention)
        cls, sep = hidden[:pairs], hidden[pairs:]  # `chunk` of an open number of pairs cannot be exported to ONNX
        sequence = torch.cat([cls, first.text, first.patches, sep, second.text, second.patches], dim=1)
        attention = self._attention(first.attention, second.attention, modality)
        hidden = self.backbone.encode_further(sequence, attention, packing, alone)
        return self._read_out(hidden, first.attention, second.attention, modality)

    def _read_out(self, hidden: Tensor, first: Tensor, second: Tensor, modality: Modality) -> ReadPair:
        """Logits from the outputs (B, S, H) of both items in one sequence, and their attentions (B, T)."""
        length = _text_length(first, modality) + (0 if modality == "text" else self.config.backbone.patches)
        left = _means(hidden[:, 1 : 1 + length], first, modality)
        right = _means(hidden[:, 2 + length :], second, modality)
        cls = hidden[:, 0]
        logits = self.head(cls) if self.config.read_out == "cls" else self.head(left, right, shared=cls)
        return ReadPair(logits, torch.cat([left, right]))

    def pack_pairs(self, first: Tensor, second: Tensor, modality: Modality) -> PairPacking:
        """The packing for `forward`, from the attentions (B, T) of both sides while they lie on the CPU."""
        both = torch.cat(equally_long(first, second))
        if self.config.read_out == "separate":
            return PairPacking(None, pack(self._attention_alone(both, modality)))
        if not self.config.blocks_alone:
            return PairPacking(pack(self._attention(first, second, modality)), None)
        left, right = both.chunk(PAIR)
        pairs = self._attention(left, right, modality)
        return PairPacking(pack(pairs), pack(self._attention_of_item(both, modality)))

    def _attention(self, first: Tensor, second: Tensor, modality: Modality) -> Tensor:
        """Which vectors of [CLS] text1 patches1 [SEP] text2 patches2 are no padding, (B, S) bool."""
        one = first.new_ones(first.shape[0], 1)
        left, right = (self._attention_of_item(side, modality) for side in (first, second))
        return torch.cat([one, left, one, right], dim=1)

    def _attention_of_item(self, text: Tensor, modality: Modality) -> Tensor:
        """Which vectors of text patches are no padding, (B, L) bool."""
        patches = text.new_ones(text.shape[0], self.config.backbone.patches)
        parts = {"text": (text,), "image": (patches,), "both": (text, patches)}
        return torch.cat(parts[modality], dim=1)

    def _attention_alone(self, text: Tensor, modality: Modality) -> Tensor:
        """Which vectors of [CLS] text [SEP] patches are no padding, (B, S) bool."""
        one, patches = (text.new_ones(text.shape[0], width) for width in (1, self.config.backbone.patches))
        parts = {"text": (one, text, one), "image": (one, one, patches), "both": (one, text, one, patches)}
        return torch.cat(parts[modality], dim=1)

    def _special(self, token: int, positions: Tensor) -> Tensor:
        return self.backbone.embed_text(torch.full_like(positions, token), positions)

    def _text(self, side: PairSide) -> Tensor:
        places = self.backbone.count_positions(side.tokens.shape[1] + TEXT_SPECIALS, side.tokens)
        return self.backbone.embed_text(side.tokens, places[1:-1])  # between [CLS] and [SEP]

    def _embeddings(self, item: PairSide | ItemStates, modality: Modality) -> list[Tensor]:
        """The vectors of items, text then patches, whatever their place in a pair; states have theirs already."""
        if isinstance(item, ItemStates):
            return [item.text, item.patches]
        text = [] if modality == "image" else [self._text(item)]
        return text if modality == "text" else [*text, self.backbone.embed_image(item.pixels)]

    def _in_segment(self, vectors: Tensor, segment: int) -> Tensor:
        return vectors if self.segments is None else vectors + self.segments.weight[segment]

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        save_model(folder, KIND, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read a saved matcher, in evaluation mode; `InputError` when `folder` holds none."""
        return plan_model(folder, KIND, MatcherConfig, cls).build().eval()


def _item_width(config: MatcherConfig) -> int:
    """Numbers in an item's vector."""
    return (SEPARATE_PARTS if config.read_out == "separate" else JOINT_PARTS) * config.backbone.hidden_size


def _head(config: MatcherConfig) -> BinaryHead | CompareHead:
    width, dropout = config.backbone.hidden_size, config.head_dropout
    match config.read_out:
        case "cls":
            return BinaryHead(width, dropout)
        case "joint":
            return CompareHead(width, shared=1, parts=JOINT_PARTS, dropout=dropout)
        case "separate":
            return CompareHead(width, shared=0, parts=SEPARATE_PARTS, dropout=dropout)


def _text_length(attention: Tensor, modality: Modality) -> int:
    """How many vectors the texts of a batch have, padding included."""
    return 0 if modality == "image" else attention.shape[1]


def _after(modality: Modality, *texts: Tensor) -> Tensor:
    """The position (B, 1) of a [SEP] behind texts, from their attentions (B, T).

    After the longest, so that their order is no matter.
    """
    if modality == "image":
        return torch.ones_like(texts[0][:, :1], dtype=torch.long)
    lengths = [text.sum(dim=1, keepdim=True) for text in texts]
    return torch.stack(lengths).amax(dim=0) + 1


def _means(own: Tensor, attention: Tensor, modality: Modality) -> Tensor:
    """Means (B, 2 * H) of an item's outputs (B, L, H) at its tokens, then its patches; zeros where it has none."""
    length = _text_length(attention, modality)
    text, patches = own[:, :length], own[:, length:]
    everywhere = attention.new_ones(patches.shape[:2])
    return torch.cat([_mean_at(text, attention[:, :length]), _mean_at(patches, everywhere)], dim=1)


def _mean_at(hidden: Tensor, places: Tensor) -> Tensor:
    """The mean (B, H) of the outputs (B, L, H) at `places` (B, L) bool; zeros where there is none."""
    weights = places.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _stacked(first: PairSide, second: PairSide) -> PairSide:
    """The items of both sides one below the other, (2 * B, ...)."""
    tokens = torch.cat(equally_long(first.tokens, second.tokens))
    attention = torch.cat(equally_long(first.attention, second.attention))
    return PairSide(tokens, attention, torch.cat([first.pixels, second.pixels]))


def _unstacked(states: ItemStates) -> tuple[ItemStates, ItemStates]:
    """Those of all first items, and those of all second ones."""
    firsts, seconds = zip(*(part.chunk(PAIR) for part in states), strict=True)
    return ItemStates(*firsts), ItemStates(*seconds)


def _split(hidden: Tensor, attention: Tensor, modality: Modality) -> ItemStates:
    """The vectors (B, L, H) of items with texts of these attentions (B, T) as their states."""
    length = _text_length(attention, modality)
    return ItemStates(hidden[:, :length], hidden[:, length:], attention)
