"""What pre-training and fine-tuning share: both kinds of embeddings and the transformer."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder

from mlim.errors import InputError
from mlim.models.config import MlimConfig
from mlim.models.image_embedder import ImageEmbedder


class Backbone(nn.Module):
    """BERT's encoder over text tokens and image cells; no vector says which modality another one has.

    `words` and `text_positions` are BERT's own embeddings; `image_positions` are separate ones for the cells.
    """

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.special = config.special
        self.words = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.text_positions = nn.Embedding(config.text_positions, config.hidden_size)
        self.image_embedder = ImageEmbedder(config)
        self.image_positions = nn.Embedding(config.cells, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = BertEncoder(bert_config(config))

    def embed_text(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Word + position vectors (B, T, H); `ids` (B, T), `positions` (T,) or (B, T) count from an item's [CLS]."""
        return cast(Tensor, self.words(ids) + self.text_positions(positions))

    def count_positions(self, length: int, like: Tensor) -> Tensor:
        """Text positions 0..length-1 on the device of `like`; `InputError` when the model has fewer."""
        known = self.text_positions.num_embeddings
        if length > known:
            raise InputError(f"the model has {known} text positions, {length} are needed; lower text.max_tokens")
        return torch.arange(length, device=like.device)

    def embed_image(self, pixels: Tensor, masked: Tensor | None = None) -> Tensor:
        """Cell + position vectors (B, C, H); cells in `masked` (B, C) bool become the word vector of [MASK].

        The position is added after masking: the transformer still knows where the hidden cell lies (section 3.1).
        """
        cells = self.image_embedder(pixels)
        if masked is not None:
            cells = torch.where(masked.unsqueeze(-1), self.words.weight[self.special.mask], cells)
        return cast(Tensor, cells + self.image_positions.weight)

    def encode(self, vectors: Tensor, attention: Tensor) -> Tensor:
        """The transformer's outputs (B, S, H); `attention` (B, S) bool is False at padding, which nobody reads."""
        hidden = self.dropout(self.norm(vectors))
        readable = attention[:, None, None, :].expand(-1, -1, attention.shape[1], -1)
        return cast(Tensor, self.encoder(hidden, attention_mask=readable).last_hidden_state)


def bert_config(config: MlimConfig) -> BertConfig:
    """The Hugging Face configuration of the transformer inside."""
    return BertConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        hidden_act=config.activation,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        layer_norm_eps=config.norm_eps,
        max_position_embeddings=config.text_positions,
        attn_implementation="sdpa",
    )
