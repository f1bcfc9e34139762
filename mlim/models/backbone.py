"""What pre-training and fine-tuning share: both kinds of embeddings and the transformer."""

from typing import cast

import torch
from torch import Tensor, nn

from mlim.errors import InputError
from mlim.models.config import MlimConfig
from mlim.models.dropout import Dropout
from mlim.models.image_embedder import ImageEmbedder, grayed
from mlim.models.images.lite import LiteReader
from mlim.models.transformer import Encoder, Packing, pack, put_tokens, take_tokens

MODALITIES, TEXT, IMAGE = 2, 0, 1


def picture_masks(system: nn.Module) -> list[nn.Module]:
    """The vectors of a network's own that stand for hidden patches; what hides no patches does not train them."""
    found = [each.image_mask for each in system.modules() if isinstance(each, Backbone)]
    return [each for each in found if each is not None]


class Backbone(nn.Module):
    """BERT's encoder over text tokens and image patches; no vector tells the modalities apart, unless asked to.

    `word_embeddings` and `text_positions` are BERT's own; `image_positions` are separate ones for the patches.
    """

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.special = config.special
        self.word_embeddings = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.text_positions = nn.Embedding(config.text_positions, config.hidden_size)
        self.image_embedder = ImageEmbedder(config)
        self.image_features = None if config.features is None else LiteReader(config.features, config.hidden_size)
        self.image_positions = nn.Embedding(config.patches, config.hidden_size)
        self.image_mask = nn.Embedding(1, config.hidden_size) if config.separate_masks else None
        self.modalities = nn.Embedding(MODALITIES, config.hidden_size) if config.modality_segments else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config)

    @property
    def embedders(self) -> list[nn.Module]:
        """What makes vectors of pictures."""
        return [each for each in (self.image_embedder, self.image_features) if each is not None]

    def embed_text(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Word + position vectors (B, T, H); `ids` (B, T), `positions` (T,) or (B, T) count from an item's [CLS]."""
        return self._in_modality(self.word_embeddings(ids) + self.text_positions(positions), TEXT)

    def count_positions(self, length: int, like: Tensor) -> Tensor:
        """Text positions 0..length-1 on the device of `like`; `InputError` when the model has fewer."""
        known = self.text_positions.num_embeddings
        if length > known:
            raise InputError(f"the model has {known} text positions, {length} are needed; lower text.max_tokens")
        return torch.arange(length, device=like.device)

    def embed_image(self, pixels: Tensor, masked: Tensor | None = None) -> Tensor:
        """Patch + position vectors (B, C, H); patches in `masked` (B, C) bool become the word vector of [MASK].

        A frozen network whose vectors are added sees the masked patches gray, so that those beside them tell nothing.
        The position is added after masking: the transformer still knows where the hidden patch lies (section 3.1).
        """
        patches = self.image_embedder(pixels)
        if self.image_features is not None:
            patches = patches + self.image_features(pixels if masked is None else grayed(pixels, masked))
        if masked is not None:
            patches = torch.where(masked.unsqueeze(-1), self._mask_vector(), patches)
        return self._in_modality(patches + self.image_positions.weight, IMAGE)

    def _mask_vector(self) -> Tensor:
        """What stands for a hidden patch: [MASK], the same as for a hidden token, unless the recipe wants another."""
        return self.word_embeddings.weight[self.special.mask] if self.image_mask is None else self.image_mask.weight[0]

    def _in_modality(self, vectors: Tensor, modality: int) -> Tensor:
        return vectors if self.modalities is None else vectors + self.modalities.weight[modality]

    def encode(
        self, vectors: Tensor, attention: Tensor, packing: Packing | None = None, end: int | None = None
    ) -> Tensor:
        """The transformer's outputs (B, S, H), zeros at padding; `attention` (B, S) bool is False there.

        `packing` is `pack(attention)`; where that lies on a GPU, one that was made before spares waiting for it. With
        `end` the outputs of the blocks before that one, which `encode_further` goes on from.
        """
        packing = pack(attention) if packing is None else packing
        hidden = self.enter(take_tokens(vectors, packing))
        return put_tokens(self.encoder(hidden, packing, end=end), packing)

    def encode_visible(
        self, vectors: Tensor, attention: Tensor, hidden: Tensor, packing: Packing | None, blocks: int
    ) -> Tensor:
        """Like `encode`, but what is `hidden` (B, S) bool joins after the first `blocks`, which read the rest alone.

        A masked autoencoder's encoder reads as little (He et al. 2022, section 3). Without `packing.visible` its
        packing is made here, which waits for the device.
        """
        seen = None if packing is None else packing.visible
        seen = pack(attention & ~hidden) if seen is None else seen
        entered = self.enter(vectors)
        below = put_tokens(self.encoder(take_tokens(entered, seen), seen, end=blocks), seen)
        return self.encode_further(torch.where(hidden[..., None], entered, below), attention, packing, blocks)

    def enter(self, vectors: Tensor) -> Tensor:
        """What the first block reads of vectors (..., H)."""
        return cast(Tensor, self.dropout(self.norm(vectors)))

    def encode_further(self, hidden: Tensor, attention: Tensor, packing: Packing | None, first: int) -> Tensor:
        """The transformer's outputs from block `first` on, for outputs `hidden` (B, S, H) of the blocks before it."""
        packing = pack(attention) if packing is None else packing
        return put_tokens(self.encoder(take_tokens(hidden, packing), packing, first), packing)
