"""The weights of a BERT checkpoint under the names that they have here, read one at a time."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mlim.errors import InputError
from mlim.files import read_json
from mlim.models.storage import WEIGHTS_FILE
from mlim.models.weights import NamedTensors, named_tensors

PREFIX = "bert."  # of a checkpoint that has heads
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"  # names the file of every tensor where there are several
OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
KINDS = ("weight", "bias")
BLOCK_PARTS = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "output_norm": "output.LayerNorm",
}
TEXT_BLOCK_PARTS = {
    **{f"self_attention.{part}": f"attention.self.{part}" for part in ("query", "key", "value")},
    "self_attention.output": "attention.output.dense",
    "self_norm": "attention.output.LayerNorm",
    **{part: BLOCK_PARTS[part] for part in ("fc1", "fc2", "output_norm")},
}
HEAD_PARTS = {"dense": "dense", "norm": "LayerNorm"}
HEAD_BIAS = "cls.predictions.bias"
POSITIONS = ["embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"]
SHOWN = 3  # missing weights named in a message

Sources = Mapping[str, Sequence[str]]  # our name: BERT's, several where they become one tensor


def block_sources(ours: str, theirs: str) -> Sources:
    """One block: BERT's query, key and value are layers of their own, here they are one."""
    sources = {
        f"{ours}.qkv.{kind}": [f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value")]
        for kind in KINDS
    }
    return sources | _parts(ours, theirs, BLOCK_PARTS)


def _parts(ours: str, theirs: str, parts: Mapping[str, str]) -> dict[str, list[str]]:
    return {f"{ours}.{here}.{kind}": [f"{theirs}.{there}.{kind}"] for here, there in parts.items() for kind in KINDS}


def backbone_sources(layers: int) -> Sources:
    """What MLIM takes of a BERT of so many layers."""
    sources: dict[str, Sequence[str]] = {
        "backbone.word_embeddings.weight": ["embeddings.word_embeddings.weight"],
        "backbone.text_positions.weight": POSITIONS,
        **_parts("backbone", "embeddings", {"norm": "LayerNorm"}),
    }
    for number in range(layers):
        sources |= block_sources(f"backbone.encoder.blocks.{number}", f"encoder.layer.{number}")
    return sources


def text_sources(blocks: int) -> Sources:
    """What a text encoder of kind crossed takes: embeddings and the first `blocks` layers."""
    sources: dict[str, Sequence[str]] = {
        "word_embeddings.weight": ["embeddings.word_embeddings.weight"],
        "text_positions.weight": POSITIONS,
        **{f"norm.{kind}": [f"embeddings.LayerNorm.{kind}"] for kind in KINDS},
    }
    for number in range(blocks):
        sources |= _parts(f"text_encoder.blocks.{number}", f"encoder.layer.{number}", TEXT_BLOCK_PARTS)
    return sources


class _Place(NamedTuple):
    """Of a tensor: its file, its name and its shape there."""

    path: Path
    name: str
    shape: Sequence[int]


class BertCheckpoint:
    """The tensors of a checkpoint in `folder` that are `sources` of ours.

    `InputError` when it lacks parts of BERT or cannot be read.
    """

    def __init__(self, folder: Path, sources: Sources) -> None:
        self._folder = folder
        try:
            self._files = self._find()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{folder}: the weights cannot be read ({reason}); {WEIGHTS_FILE} is needed") from None
        self._sources = sources
        missing = sorted({name for names in self._sources.values() for name in names} - self._files.keys())
        if missing:
            raise InputError(
                f"{folder}: the weights lack parts of BERT ({', '.join(missing[:SHOWN])}, ...); save it again"
            )
        self._sources = {**self._sources, **self._head_sources()}

    def check_shapes(self, model: nn.Module) -> None:
        """`InputError` when a tensor does not have the shape that it has in `model`."""
        own = named_tensors(model)
        for ours, theirs in self._sources.items():
            parts = [torch.empty(self._files[name].shape, device="meta") for name in theirs]
            if (found := joined(parts, theirs).shape) != own[ours].shape:
                raise InputError(
                    f"{self._folder}: the weights cannot be read ({theirs[0]} gives {tuple(found)}, config.json says "
                    f"{tuple(own[ours].shape)}); save it again"
                )

    def weights(self) -> NamedTensors:
        """What was asked for and, where the checkpoint has one, the MLM head."""
        for ours, theirs in self._sources.items():
            yield ours, joined([self._read(name) for name in theirs], theirs)

    def _find(self) -> dict[str, "_Place"]:
        """Where every tensor is, by the name that BERT itself gives it."""
        index = self._folder / INDEX_FILE
        names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [WEIGHTS_FILE]
        found = {}
        for path in (self._folder / name for name in names):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    found[_plain(name)] = _Place(path, name, file.get_slice(name).get_shape())
        return found

    def _head_sources(self) -> Sources:
        head = _parts("mlm_head", "cls.predictions.transform", HEAD_PARTS)
        if any(name not in self._files for names in head.values() for name in names):
            return {}
        return {**head, **({"mlm_head.bias": [HEAD_BIAS]} if HEAD_BIAS in self._files else {})}

    def _read(self, name: str) -> Tensor:
        place = self._files[name]
        with safe_open(place.path, "pt") as file:
            tensor: Tensor = file.get_tensor(place.name)
            return tensor.float()


def _plain(name: str) -> str:
    name = name.removeprefix(PREFIX)
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: OLD_NORMS[found[0]], name)


def joined(tensors: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """One tensor of several: query, key and value below each other, or positions with the vector of single texts.

    There is no segment embedding here (paper section 3.1): the vector BERT adds to all of a single text goes into its
    positions, so that a text gives the outputs it gave before. Image patches never saw it and stay as they are.
    """
    if list(names) == POSITIONS:
        return tensors[0] + tensors[1][0]
    return torch.cat(list(tensors))
