"""From a network of torch to ONNX graphs, and from these to graphs with weights of 8 bits.

Batch and length of texts stay open. Padding stays in the sequences of a graph and attention leaves it out
(`mlim.models.transformer.pack`): shapes may not depend on values.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from torch import Tensor, nn

from mlim.data.batches import PairSide
from mlim.models.pair_network import ItemStates, PairNetwork
from mlim.onnx.matcher import (
    COMPARE,
    ITEM,
    JOIN,
    SEPARATE,
    SIDES,
    OnnxConfig,
    OnnxMatcher,
    join_inputs,
    needs_packages,
)
from mlim.onnx.norms import write_as_instance_norms
from mlim.recipe.base import Modality

OPSET: Final = 20  # the first with Gelu
EXAMPLES, FIRST_LENGTH, SECOND_LENGTH = 2, 3, 4  # all differ, none is 1: equal or single sizes could be taken as fixed
RGB: Final = 3
QUANTIZED: Final = ("MatMul", "Gemm")
AS_LONG_AS_TEXTS: Final = ("tokens", "attention", "text")  # in the second dimension of inputs of these names
OUTPUT: Final = "output"


class _Item(nn.Module):
    """Items to what is their own: vectors (B, width), or the states (B, L, H) at their tokens and patches."""

    def __init__(self, network: PairNetwork, modality: Modality) -> None:
        super().__init__()
        self.network, self.modality = network, modality

    def forward(self, *parts: Tensor) -> Tensor:
        if self.network.read_out == SEPARATE:
            return self.network.item_vectors(PairSide(*parts), self.modality)
        states = self.network.item_states(PairSide(*parts), self.modality)
        return torch.cat([states.text, states.patches], dim=1)


class _Join(nn.Module):
    """Both items' states to logits (B,)."""

    def __init__(self, network: PairNetwork, modality: Modality) -> None:
        super().__init__()
        self.network, self.modality = network, modality

    def forward(self, *parts: Tensor) -> Tensor:
        first, second = parts[: len(ItemStates._fields)], parts[len(ItemStates._fields) :]
        return self.network.join(ItemStates(*first), ItemStates(*second), self.modality)


class _Compare(nn.Module):
    """Vectors (B, width) of both items of every pair to logits (B,)."""

    def __init__(self, network: PairNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *vectors: Tensor) -> Tensor:
        return self.network.compare(*vectors)


def export_matcher(network: PairNetwork, modality: Modality, max_tokens: int, image_size: int) -> OnnxMatcher:
    """The same matcher as graphs that read `modality` of items, texts of up to `max_tokens` tokens.

    `network` lies on the CPU, in evaluation mode. `InputError` when the packages of the extra `onnx` are missing.
    """
    config = OnnxConfig(
        read_out=network.read_out,
        item_width=network.item_width,
        grid=network.grid,
        modality=modality,
        precision="fp32",
    )
    first, second = (_example(length, max_tokens, image_size) for length in (FIRST_LENGTH, SECOND_LENGTH))
    item = _graph(_Item(network, modality), first._asdict())
    if network.read_out == SEPARATE:
        vectors = {side: torch.rand(EXAMPLES, network.item_width) for side in SIDES}  # one tensor twice is one input
        return OnnxMatcher(config, {ITEM: item, COMPARE: _graph(_Compare(network), vectors)})
    with torch.no_grad():
        states = [network.item_states(side, modality) for side in (first, second)]
    return OnnxMatcher(config, {ITEM: item, JOIN: _graph(_Join(network, modality), join_inputs(*states))})


def quantized(matcher: OnnxMatcher) -> OnnxMatcher:
    """The same graphs with the weights of their linear layers in 8 bits, one scale for each output.

    The inputs of these layers are rounded to 8 bits as they come, with one scale for the batch: the score of a pair
    depends a little on what it is computed with.
    """
    graphs = {name: _quantized(graph) for name, graph in matcher.graphs.items()}
    return OnnxMatcher(matcher.config.model_copy(update={"precision": "int8"}), graphs)


def _example(length: int, max_tokens: int, image_size: int) -> PairSide:
    length = min(length, max_tokens)
    tokens = torch.ones(EXAMPLES, length, dtype=torch.long)
    return PairSide(tokens, tokens.bool(), torch.rand(EXAMPLES, RGB, image_size, image_size))


def _graph(module: nn.Module, inputs: Mapping[str, Tensor]) -> bytes:
    """The ONNX model of `module`; the first dimension of every input is open, and the second where it is a length.

    Texts that are left out have length 0, which stays.
    """
    with needs_packages("exporting to ONNX"):
        import onnxscript  # noqa: F401 - torch's exporter needs it
    open_ = torch.export.Dim.DYNAMIC
    lengths = {name for name, tensor in inputs.items() if name.endswith(AS_LONG_AS_TEXTS) and tensor.shape[1]}
    shapes = [{0: open_, 1: open_} if name in lengths else {0: open_} for name in inputs]
    with _without_remarks(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_shapes=(tuple(shapes),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]
    write_as_instance_norms(model.graph)
    written: bytes = model.SerializeToString()
    return written


def _quantized(graph: bytes) -> bytes:
    with needs_packages("writing ONNX graphs with 8 bits"):
        from onnxruntime.quantization import QuantType, quantize_dynamic
    with TemporaryDirectory() as temporary, _without_remarks():
        before, after = (Path(temporary) / name for name in ("fp32.onnx", "int8.onnx"))
        before.write_bytes(graph)
        quantize_dynamic(
            before, after, op_types_to_quantize=list(QUANTIZED), per_channel=True, weight_type=QuantType.QInt8
        )
        return after.read_bytes()


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep to themselves what exporter and quantisation say of packages that are not there, and of their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
