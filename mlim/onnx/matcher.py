"""A matcher that onnxruntime computes: the graphs that `mlim.onnx.export` writes, with the interface of a network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from mlim.config import Config, parse
from mlim.data.batches import PairSide
from mlim.errors import InputError
from mlim.files import atomic_file, write_json
from mlim.models.pair_network import ItemStates
from mlim.models.storage import CONFIG_FILE, read_config
from mlim.recipe.base import Modality, ReadOut

KIND: Final = "onnx-matcher"  # in the config.json of a saved one
SUFFIX: Final = ".onnx"
SEPARATE: Final = "separate"
ITEM, COMPARE, JOIN = "item", "compare", "join"  # graphs, by the name of their file
SIDES: Final = ("first", "second")
PROVIDERS: Final = ("CPUExecutionProvider",)
ERRORS: Final = 3  # onnxruntime's level for messages: no warnings
MISSING: Final = "needs packages that are not installed; run `pip install 'mlim[onnx]'`"

Precision = Literal["fp32", "int8"]


class OnnxConfig(Config):
    """What is known of a matcher without its graphs; `modality` is what they read of items."""

    read_out: ReadOut
    item_width: PositiveInt
    grid: PositiveInt
    modality: Modality
    precision: Precision

    @property
    def graphs(self) -> Sequence[str]:
        """The names of its graphs: what reads an item, and what compares two or reads both in one sequence."""
        return (ITEM, COMPARE if self.read_out == SEPARATE else JOIN)


class OnnxMatcher:
    """Logits of pairs, computed on the CPU with as many threads as torch has at the time.

    `graphs` are ONNX models by the names in `config.graphs`. Inputs and outputs are those of `PairNetwork`.
    """

    def __init__(self, config: OnnxConfig, graphs: Mapping[str, bytes]) -> None:
        self.config, self.graphs = config, dict(graphs)
        self._sessions: dict[tuple[str, int], Any] = {}

    @property
    def read_out(self) -> ReadOut:
        """What the logit of a pair is read from."""
        return self.config.read_out

    @property
    def item_width(self) -> int:
        """Numbers in an item's vector."""
        return self.config.item_width

    @property
    def grid(self) -> int:
        """Patches per side of a picture."""
        return self.config.grid

    def __call__(self, first: PairSide, second: PairSide, modality: Modality, /) -> Tensor:
        """Logits (B,) that the items match; `InputError` for another modality than the graphs were exported for."""
        if self.read_out == SEPARATE:
            return self.compare(self.item_vectors(first, modality), self.item_vectors(second, modality))
        return self.join(self.item_states(first, modality), self.item_states(second, modality), modality)

    def item_vectors(self, side: PairSide, modality: Modality, /) -> Tensor:
        """Vectors (B, width) of items, where `read_out` is `separate`; errors as calling it."""
        self.check_modality(modality)
        return self._run(ITEM, side._asdict())

    def compare(self, first: Tensor, second: Tensor, /) -> Tensor:
        """Logits (B,) from the `item_vectors` (B, width) of both sides, where `read_out` is `separate`."""
        return self._run(COMPARE, dict(zip(SIDES, (first, second), strict=True)))

    def item_states(self, side: PairSide, modality: Modality, /) -> ItemStates:
        """What is an item's own, where `read_out` is another one; errors as calling it."""
        self.check_modality(modality)
        length = 0 if modality == "image" else side.attention.shape[1]
        hidden = self._run(ITEM, side._asdict())
        return ItemStates(hidden[:, :length], hidden[:, length:], side.attention)

    def join(self, first: ItemStates, second: ItemStates, modality: Modality, /) -> Tensor:
        """Logits (B,) of pairs from the states of both sides, likewise."""
        self.check_modality(modality)
        return self._run(JOIN, join_inputs(first, second))

    def check_modality(self, modality: Modality) -> None:
        """`InputError` unless the graphs read this modality."""
        if modality != self.config.modality:
            raise InputError(
                f"these ONNX graphs read modality {self.config.modality}, not {modality}; use the model that they were "
                "exported from"
            )

    def to(self, device: torch.device, /) -> Self:
        """Itself on the CPU; `InputError` for another device."""
        if device.type != "cpu":
            raise InputError(f"ONNX graphs run on the CPU here, not on {device}; leave the device out")
        return self

    def eval(self) -> Self:
        """Itself: graphs are never trained."""
        return self

    def save_pretrained(self, folder: Path | None) -> None:
        """Write config.json and the graphs into `folder`, which is made when missing; nothing for None."""
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, graph in self.graphs.items():
            with atomic_file(folder / f"{name}{SUFFIX}") as temporary:
                temporary.write_bytes(graph)
        write_json(folder / CONFIG_FILE, {"kind": KIND, **self.config.model_dump(mode="json")})

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read a saved one; `InputError` when `folder` holds none, or onnxruntime is not installed."""
        values = read_config(folder)
        values.pop("kind", None)
        config = parse(OnnxConfig, values, str(folder / CONFIG_FILE))
        with needs_packages(str(folder)):
            import onnxruntime  # noqa: F401 - before any work
        files = {name: folder / f"{name}{SUFFIX}" for name in config.graphs}
        for path in files.values():
            if not path.is_file():
                raise InputError(
                    f"{folder}: has no {path.name}, which this version of mlim reads; run `mlim export` again"
                )
        return cls(config, {name: path.read_bytes() for name, path in files.items()})

    def _run(self, graph: str, tensors: Mapping[str, Tensor]) -> Tensor:
        session = self._session(graph)
        names = [given.name for given in session.get_inputs()]  # an input that a modality leaves out is none
        found = session.run(None, {name: np.ascontiguousarray(tensors[name].numpy()) for name in names})
        return torch.from_numpy(found[0])

    def _session(self, graph: str) -> Any:
        threads = torch.get_num_threads()
        if (graph, threads) not in self._sessions:
            with needs_packages("running an ONNX model"):
                import onnxruntime
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, ERRORS
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as torch's threads here
            made = onnxruntime.InferenceSession(self.graphs[graph], options, providers=list(PROVIDERS))
            self._sessions[graph, threads] = made
        return self._sessions[graph, threads]


def join_inputs(first: ItemStates, second: ItemStates) -> dict[str, Tensor]:
    """The inputs of the graph that reads both items by name: `first_text`, ..., `second_attention`."""
    named = zip(SIDES, (first, second), strict=True)
    return {f"{name}_{part}": value for name, side in named for part, value in side._asdict().items()}


@contextmanager
def needs_packages(what: str) -> Iterator[None]:
    """`InputError` that names the extra where a package of it is missing; `what` needs it."""
    try:
        yield
    except ImportError:
        raise InputError(f"{what}: {MISSING}") from None
