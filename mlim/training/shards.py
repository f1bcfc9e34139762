"""Checkpoints by torch.distributed.checkpoint: safetensors files, of which every rank writes and reads its part.

torch's own format has a pickle beside the tensors; the one of Hugging Face, which is used here, has none: where a part
lies in its tensor stands in the file's header.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

FILE_BYTES = 1 << 26  # of whole tensors for each file: what is being written lies in memory once more


class Stored(NamedTuple):
    """What a tensor is in the files: of all its parts together."""

    shape: torch.Size
    dtype: torch.dtype


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor], group: Any) -> None:
    """Write tensors, sharded or not, into `folder`; all ranks of `group` call it. `OSError` when one of them fails."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    files = _files(tensors)
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:  # what every rank raises when one of them could not write
        reasons = [f"rank {rank}: {failure[0]}" for rank, failure in error.failures.items()]
        raise OSError("; ".join(reasons)) from error


def stored_in(folder: Path) -> Mapping[str, Stored]:
    """The contents of the files of `folder`, by name."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: Stored(each.size, each.properties.dtype) for name, each in found.items()}  # type: ignore[union-attr]


def read_shards(folder: Path, targets: Mapping[str, torch.Tensor]) -> None:
    """Fill tensors, which may be sharded in another way than they were written; each rank reads its parts alone."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():  # that it works without asking other ranks is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(dict(targets), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _files(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The number of the file, from 1, that a tensor goes to: some megabytes in each."""
    files, number, filled = {}, 1, 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        files[name], filled = number, filled + size
    return files
