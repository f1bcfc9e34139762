"""An encoder with positions of its own, for one modality alone."""

from torch import Tensor, nn

from mlim.models.dropout import Dropout
from mlim.models.transformer import Encoder, EncoderShape, Packing, put_tokens, take_tokens


class Tower(nn.Module):
    """Vectors with positions to their encoding; what makes the vectors is its owner's."""

    def __init__(self, shape: EncoderShape, positions: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(positions, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_eps)
        self.dropout = Dropout(shape.dropout)
        self.encoder = Encoder(shape)

    def forward(self, vectors: Tensor, packing: Packing) -> Tensor:
        """Outputs (B, S, H) of vectors (B, S, H), zeros at padding."""
        placed = vectors + self.positions.weight[: vectors.shape[1]]
        hidden = self.dropout(self.norm(take_tokens(placed, packing)))
        return put_tokens(self.encoder(hidden, packing), packing)
