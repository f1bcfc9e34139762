"""Saved models: a folder with `config.json` (kind, shape) and `model.safetensors`; no pickle."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mlim.config import Config, parse
from mlim.errors import InputError
from mlim.files import atomic_file, read_json, write_json
from mlim.models.weights import NamedTensors, Planned, named_shapes, named_tensors, on_meta, whole

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SAFETENSORS_NAMES = {torch.float32: "F32"}  # of all types that our models have
HEADER_ALIGNMENT = 8  # bytes; also the size of the header's length
RENAMED = {  # parts of tensors' names in models and checkpoints of earlier versions
    ".mix.": ".attention_output.",
    ".mix_norm.": ".attention_norm.",
    ".widen.": ".fc1.",
    ".narrow.": ".fc2.",
    ".narrow_norm.": ".output_norm.",
    "backbone.words.": "backbone.word_embeddings.",
}

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=Config)


def save_model(folder: Path | None, kind: str, config: Config, model: nn.Module) -> None:
    """Write `model` into `folder` (made when missing); the same weights give the same bytes.

    Of a sharded model one tensor at a time is gathered: every rank must call this, those that do not write with None.
    """
    tensors = named_tensors(model)
    if folder is None:
        for name in _in_file(tensors):
            whole(tensors[name])
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / WEIGHTS_FILE) as temporary:
        write_tensors(temporary, tensors)
    write_json(folder / CONFIG_FILE, {"kind": kind, **config.model_dump(mode="json")})


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, tensor by tensor: the bytes that the library writes, which wants all of them in memory."""
    names, header, end = _in_file(tensors), dict[str, Any](), 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        kind = SAFETENSORS_NAMES[tensors[name].dtype]
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb") as target:
        target.write(len(text).to_bytes(HEADER_ALIGNMENT, "little") + text)
        for name in names:
            target.write(whole(tensors[name]).cpu().contiguous().numpy().data)


def _in_file(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in the order that safetensors keeps: large types first."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def plan_model(folder: Path, kind: str, config_type: type[C], build: Callable[[C], M]) -> Planned[M]:
    """A saved model of `kind`, to be read tensor by tensor; `InputError` when `folder` holds none that can be."""
    values = read_config(folder)
    found = values.pop("kind", None)
    if found != kind:
        raise InputError(f"{folder}: holds a model of kind {found!r}, not {kind!r}; give the folder of a {kind} model")
    config = parse(config_type, values, str(folder / CONFIG_FILE))
    model, path = on_meta(lambda: build(config)), folder / WEIGHTS_FILE
    wanted = named_shapes(model)
    if stored_shapes(path) != wanted:
        raise _unreadable(path, "they are of another model")
    return Planned(model, lambda: stored_tensors(path, wanted))


def present_name(name: str) -> str:
    """What a tensor is called now that an earlier version may have stored."""
    for before, now in RENAMED.items():
        name = name.replace(before, now)
    return name


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Present name and shape of every tensor in a safetensors file, from its header.

    `InputError` when it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {present_name(name): tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from None


def stored_tensors(path: Path, names: Iterable[str]) -> NamedTensors:
    """These tensors of a safetensors file, one after the other."""
    with safe_open(path, "pt") as file:
        stored = {present_name(name): name for name in list(file.keys())}
        for name in names:
            yield name, file.get_tensor(stored[name])


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: the weights cannot be read ({reason}); save the model again")


def read_config(folder: Path) -> dict[str, Any]:
    """The values in the config.json of a model's folder; `InputError` when there is none to read."""
    path = folder / CONFIG_FILE
    try:
        values = read_json(path)
    except OSError:
        raise InputError(f"{folder}: is no saved model ({CONFIG_FILE} is missing); give a `model` folder") from None
    except ValueError:
        raise InputError(f"{path}: is not valid JSON; save the model again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no model configuration; give a `model` folder")
    return values
