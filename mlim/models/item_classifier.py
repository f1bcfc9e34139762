"""Answers about pictures: a text is encoded with each of them, and a head chooses one of several classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from mlim.config import Config
from mlim.data.asked import AskedBatch
from mlim.errors import InputError
from mlim.models.heads import ClassHead
from mlim.models.initialise import drawn
from mlim.models.network import Network, Part, RecomputableBlock
from mlim.models.separate_matcher import SYSTEM, SystemBuilder
from mlim.models.storage import plan_model, save_model
from mlim.models.system import EncodesItems, Shown, System
from mlim.models.transformer import Packing
from mlim.models.weights import NamedTensors, Planned, on_meta
from mlim.recipe.base import Modality

KIND = "item-classifier"


class ItemClassifierConfig(Config):
    """What the system saved of itself; how many pictures a text is about; what the classes are called."""

    system: dict[str, Any]
    pictures: PositiveInt
    classes: tuple[str, ...]


class ItemClassifier(Network):
    """Logits of classes from the vectors of a text with each of its pictures, one behind the other."""

    def __init__(self, system: System, pictures: int, classes: Sequence[str]) -> None:
        super().__init__()
        if not isinstance(system, EncodesItems):
            raise InputError(f"system {system.kind} makes no vector of a text and a picture, so it can answer nothing")
        self.system, self.pictures, self.classes = system, pictures, tuple(classes)
        width = system.item_part_width
        self.head = ClassHead(pictures * system.item_parts * width, width, len(self.classes))
        for module in system.task_modules():  # of pre-training
            module.requires_grad_(False)

    @classmethod
    def planned(cls, start: Planned[System], pictures: int, classes: Sequence[str], seed: int) -> Planned[Self]:
        """One to be built on a system; its head is random from `seed`."""
        model = on_meta(lambda: cls(start.model, pictures, classes))

        def weights() -> NamedTensors:
            own = drawn(model.head, model.items.item_part_width, torch.Generator().manual_seed(seed))
            yield from ((f"head.{name}", value) for name, value in own)
            yield from ((f"{SYSTEM}{name}", value) for name, value in start.weights())

        return Planned(model, weights)

    @property
    def items(self) -> EncodesItems:
        """The system, as what encodes items."""
        return cast(EncodesItems, self.system)

    def parts(self) -> Mapping[Part, Sequence[nn.Module]]:
        """Those of the system, and the head."""
        parts = self.system.parts()
        return {**parts, "heads": [*parts.get("heads", ()), self.head]}

    def levels(self) -> Sequence[Sequence[RecomputableBlock]]:
        """Those of the system."""
        return self.system.levels()

    def pack(self, batch: AskedBatch) -> Packing:
        """Where the real tokens of the texts lie, each with its first picture, then each with its second one ..."""
        return self.system.pack_items(batch.text_attention.repeat(self.pictures, 1))

    def forward(self, batch: AskedBatch, modality: Modality, packing: Packing | None = None) -> Tensor:
        """Logits (B, classes) of a batch with float pixels; a modality that is left out is not read."""
        ids, attention = (part.repeat(self.pictures, 1) for part in (batch.input_ids, batch.text_attention))
        vectors = self.items.encode_items(Shown(ids, attention, batch.pixels, packing=packing), modality)
        logits: Tensor = self.head(torch.cat(vectors.chunk(self.pictures), dim=1))
        return logits

    def chances(self, batch: AskedBatch, answer: int, pixels: Tensor) -> Tensor:
        """The log-probabilities (N,) of an answer to the one question in a batch, about each of N pictures in 0..1."""
        ids, attention = (part.expand(len(pixels), -1) for part in (batch.input_ids, batch.text_attention))
        shown = batch._replace(input_ids=ids, text_attention=attention, pixels=pixels)
        chances: Tensor = self(shown, "both").float().log_softmax(dim=1)[:, answer]
        return chances

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and model.safetensors into `folder`; see `save_model` for several ranks."""
        system = {"kind": self.system.kind, **self.system.inputs.model_dump(mode="json")}
        config = ItemClassifierConfig(system=system, pictures=self.pictures, classes=self.classes)
        save_model(folder, KIND, config, self)

    @classmethod
    def from_pretrained(cls, folder: Path, build: SystemBuilder) -> Self:
        """Read a saved one, in evaluation mode; `build` makes an empty system of what it saved of itself.

        `InputError` when `folder` holds none.
        """
        planned = plan_model(
            folder,
            KIND,
            ItemClassifierConfig,
            lambda config: cls(build(config.system), config.pictures, config.classes),
        )
        return planned.build().eval()
