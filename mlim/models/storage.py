"""Saved models: a folder with `config.json` (kind, shape) and `model.safetensors`; no pickle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mlim.config import Config, parse
from mlim.errors import InputError
from mlim.files import atomic_file, read_json, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=Config)


def save_model(folder: Path, kind: str, config: Config, model: nn.Module) -> None:
    """Write `model` into `folder` (made when missing); the same weights give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_file(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary)
    write_json(folder / CONFIG_FILE, {"kind": kind, **config.model_dump(mode="json")})


def load_model(folder: Path, kind: str, config_type: type[C], build: Callable[[C], M]) -> M:
    """Read a model of `kind` back, on the CPU and in evaluation mode; `InputError` when `folder` holds none."""
    values = read_config(folder)
    found = values.pop("kind", None)
    if found != kind:
        raise InputError(f"{folder}: holds a model of kind {found!r}, not {kind!r}; give the folder of a {kind} model")
    config = parse(config_type, values, str(folder / CONFIG_FILE))
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
        model = build(config)
    try:
        # Copies lie where torch would have put them: kernels choose their way, and so the last bit, by the address.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
        model.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS_FILE}: the weights cannot be read ({reason}); save the model again"
        ) from None
    return model.eval()


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
