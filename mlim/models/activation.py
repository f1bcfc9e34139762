"""The activations that BERT checkpoints name, by torch alone: transformers takes seconds to import."""

from torch import nn

from mlim.config import nearest
from mlim.errors import InputError

TANH = ("gelu_new", "gelu_pytorch_tanh")  # the names of the same approximation


def activation(name: str) -> nn.Module:
    """The activation that a Hugging Face configuration calls `name`; `InputError` for one that BERT does not use."""
    plain: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
    if name in plain:
        return plain[name]()
    if name in TANH:
        return nn.GELU(approximate="tanh")
    raise InputError(f"hidden_act: `{name}` is not supported{nearest(name, [*plain, *TANH])}")
