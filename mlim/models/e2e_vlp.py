"""E2E-VLP (Xu et al. 2021): one encoder over text and picture, one decoder that finds objects and writes captions.

As in DETR the cells of a picture have fixed positions that every attention adds to its queries and keys. A LayerNorm
brings cells to the size of word vectors before the first block: the network starts from random weights.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.data.objects import ObjectNames
from mlim.models.attention import causal
from mlim.models.costs import crossing_layers, linear, operations_of
from mlim.models.decoder import Blocks, Memory
from mlim.models.detection import Detected, DetectionHeads, sine_positions
from mlim.models.dropout import Dropout
from mlim.models.heads import BinaryHead, MlmHead
from mlim.models.images.build import build_image_side
from mlim.models.item_system import OneEncoderSystem, ReadsWords
from mlim.models.network import Part, RecomputableBlock
from mlim.models.shapes import SidedInputs
from mlim.models.system import Fused, Shown
from mlim.models.writing import WritesByHead, WritingHead
from mlim.recipe.e2e_vlp import E2eVlpSystem

KIND = "e2e-vlp"


class E2eVlpConfig(SidedInputs):
    """What it reads, its shape, and what objects are called; stored beside the weights as JSON."""

    shape: E2eVlpSystem
    objects: ObjectNames = ObjectNames()


class E2eVlp(WritesByHead, ReadsWords, OneEncoderSystem):
    """Sequence [CLS] text [SEP] cells, read by MLM and ITM; queries and captions read it in the decoder."""

    kind = KIND
    config_class = E2eVlpConfig
    config: E2eVlpConfig

    def __init__(self, config: E2eVlpConfig) -> None:
        super().__init__(config)
        shape, width = config.shape, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width)
        self.text_positions = nn.Embedding(config.text_positions, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.image = build_image_side(shape.image, width)
        self.image_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.encoder = Blocks(config.blocks(shape.depth), crosses=False)
        self.queries = nn.Embedding(shape.queries, width)
        self.decoder = Blocks(config.blocks(shape.decoder_depth))
        self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.detection = DetectionHeads(width, len(config.objects.labels), config.objects.values())
        self.writing = WritingHead(config.vocabulary_size)
        self.mlm_head = MlmHead(config)
        self.itm_head = BinaryHead(width, shape.dropout)

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Its modules by the part of the network that they belong to."""
        return {
            "embedder": [self.image],
            "transformer": [self.word_embeddings, self.text_positions, self.norm, self.image_norm, self.encoder],
            "decoder": [self.queries, self.decoder, self.decoder_norm],
            "heads": [self.detection, self.writing, self.mlm_head, self.itm_head],
        }

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """The blocks of its encoder: what all tasks go through."""
        return [[block] for block in self.encoder.levels()]

    def fuse(self, shown: Shown) -> Fused:
        """The outputs at the text's tokens and at the picture's cells."""
        ids, length = shown.words(self.config.special.mask), shown.input_ids.shape[1]
        hidden = self._encode(self.read_words(ids), shown.text_attention, seen := self.seen(shown))
        return Fused(hidden[:, :length], None if seen is None else hidden[:, length:])

    def look(self, shown: Shown) -> Tensor:
        """The outputs at the cells (B, C, H) of pictures that are read without a text; without pictures C is 0."""
        nothing = shown.text_attention[:, :0]
        empty = self.norm.weight.new_zeros(*nothing.shape, self.config.shape.width)
        return empty if (seen := self.seen(shown)) is None else self._encode(empty, nothing, seen)

    def _positions(self, text: int, like: Tensor) -> Tensor:
        """Of `text` tokens, whose vectors have theirs already, and of the cells: (text + C, H)."""
        sines = sine_positions(self.config.grid, self.config.shape.width, like.device)
        return functional.pad(sines, (0, 0, text, 0))

    def _encode(self, text: Tensor, attention: Tensor, seen: Tensor | None) -> Tensor:
        """The encoder's outputs (B, T + C, H) for word vectors (B, T, H) and those of pictures that are `seen`."""
        vectors, positions, visible = text, None, attention
        if seen is not None:
            cells: Tensor = self.dropout(self.image_norm(seen))
            vectors, positions = torch.cat([text, cells], dim=1), self._positions(text.shape[1], text)
            visible = functional.pad(attention, (0, cells.shape[1]), value=True)
        return cast(Tensor, self.encoder(vectors, positions, visible[:, None, None, :])[-1])

    def detect(self, cells: Tensor, text: Tensor | None = None, attention: Tensor | None = None) -> Detected:
        """The objects, from the encoder's outputs at the cells (B, C, H), and at the text's tokens (B, T, H)."""
        return self.judge(self.ask(cells, text, attention))

    def ask(self, cells: Tensor, text: Tensor | None = None, attention: Tensor | None = None) -> Tensor:
        """What the queries have become in every layer of the decoder: (L, B, Q, H), from what `detect` reads."""
        states = cells if text is None else torch.cat([text, cells], dim=1)
        visible = None if attention is None else functional.pad(attention, (0, cells.shape[1]), value=True)
        positions = self._positions(states.shape[1] - cells.shape[1], cells)
        memory = Memory(states, positions, None if visible is None else visible[:, None, None, :])
        queries = self.queries.weight
        nothing = queries.new_zeros(len(cells), *queries.shape)
        return cast(Tensor, self.decoder_norm(self.decoder(nothing, queries, memory=memory)))

    def judge(self, asked: Tensor) -> Detected:
        """The objects, from what the queries have become (L, B, Q, H)."""
        return cast(Detected, self.detection(asked))

    def write(self, seen: Tensor, ids: Tensor) -> Tensor:
        """Outputs (B, T, H) that predict the token after each of `ids` (B, T), from what `look` gave."""
        positions = self._positions(0, seen) if seen.shape[1] else None
        visible, memory = causal(ids.shape[1], ids.device), Memory(seen, positions)
        return cast(Tensor, self.decoder_norm(self.decoder(self.read_words(ids), visible=visible, memory=memory)[-1]))

    @property
    def object_names(self) -> ObjectNames:
        """What it calls the objects that it finds."""
        return self.config.objects

    def finding(self, objects: ObjectNames) -> "E2eVlp":
        """A network like it, without its weights, for objects of these names."""
        return E2eVlp(self.config.model_copy(update={"objects": objects}))

    @property
    def queries_and_layers(self) -> tuple[int, int]:
        """How many objects are looked for, and how often: once in each block of the decoder."""
        return self.config.shape.queries, self.config.shape.decoder_depth

    @property
    def detection_modules(self) -> list[nn.Module]:
        """What only detection and captions train."""
        return [self.queries, self.decoder, self.decoder_norm, self.detection]

    @property
    def writing_modules(self) -> list[nn.Module]:
        """What only captions and detection train."""
        return [self.decoder, self.decoder_norm, self.writing]

    def detection_operations(self, text: float, alone: bool) -> float:
        """Operations of finding the objects of a picture beside so many tokens; `alone`: with the encoder's."""
        shape, objects = self.config.shape, self.config.objects
        layers = crossing_layers(self.config.blocks(shape.decoder_depth), shape.queries, memory=text + self.patches)
        judged = shape.queries * shape.decoder_depth
        heads = [linear(judged, shape.width, len(objects.labels) + 1 + sum(objects.values()))]
        boxes = [linear(judged, shape.width, shape.width)] * 2
        return operations_of([*layers, *heads, *boxes]) + (
            self.encoding_operations(0.0, self.patches) if alone else 0.0
        )

    def writing_operations(self, tokens: float) -> float:
        """Operations over one picture, which is encoded alone, and a text of so many tokens."""
        shape = self.config.shape
        layers = crossing_layers(self.config.blocks(shape.decoder_depth), tokens, memory=self.patches)
        head = linear(tokens, shape.width, self.config.vocabulary_size)
        return operations_of([*layers, head]) + self.encoding_operations(0.0, self.patches)

    @property
    def depth(self) -> int:
        """Blocks of the encoder."""
        return self.config.shape.depth
