"""What a pre-trained model makes of items: which lie close together, and where a hidden word or patch looks.

Both need the transformer alone, whatever losses it was trained with. Attention shows where the last block reads, not
why: what a modality is worth to the other one is measured by Figure 2 (`mlim.evaluation.probes`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlim.data.batches import ItemBatch
from mlim.data.seeds import numpy_generator
from mlim.data.tokenize import CONTINUATION
from mlim.evaluation.item_views import Guess, ItemAttention, Neighbour, Neighbourhood, WordShare
from mlim.evaluation.probes import BRIGHTEST, GRAY, Families, Floats, ProbedModel
from mlim.models.mlim import Mlim
from mlim.models.system import Fused
from mlim.models.transformer import QKV, Block

SMALLEST_LENGTH: Final = 1e-12  # of a vector: items that are all alike have no direction


class FamilyShare(NamedTuple):
    """How often the nearest neighbour is of the item's family, and how often a random other item would be.

    Counted over the `items` that have another member of their family to be found; None where there is none.
    """

    same_family: float | None
    by_chance: float | None
    items: int


@torch.inference_mode()
def embed(probed: ProbedModel, items: Sequence[str]) -> Floats:
    """One vector per item (N, H): the mean of the outputs at its real text tokens and its patches, nothing masked."""
    return torch.cat([_pool(probed.model, batch).cpu() for batch in probed.batches(items)]).double().numpy()


def _pool(model: Mlim, batch: ItemBatch) -> Tensor:
    output = model.forward_items(batch.input_ids, batch.text_attention, batch.pixels)
    patches, real = cast(Tensor, output.patches), batch.text_attention.unsqueeze(-1)  # patches: a picture was given
    return ((output.text * real).sum(dim=1) + patches.sum(dim=1)) / (real.sum(dim=1) + patches.shape[1])


def similarities(vectors: Floats, queries: int) -> Floats:
    """Cosines (Q, N) of the first `queries` of the `vectors` (N, H) with all; -inf of each with itself.

    The mean vector is taken away before: a transformer's outputs share one large direction (Ethayarajh, EMNLP 2019),
    beside which every plain cosine is 0.99; without it they spread (Mu and Viswanath, ICLR 2018).
    """
    centred = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = centred / np.maximum(lengths, SMALLEST_LENGTH)
    cosines: Floats = directions[:queries] @ directions.T
    cosines[np.arange(queries), np.arange(queries)] = -np.inf
    return cosines


def nearest(cosines: Floats, number: int) -> NDArray[np.int64]:
    """Columns (Q, `number`) of the most similar items, the nearest first; fewer where there are fewer others."""
    others = cosines.shape[1] - 1
    return np.argsort(-cosines, axis=1, kind="stable")[:, : min(number, others)]


def neighbourhoods(
    probed: ProbedModel, items: Sequence[str], families: Families, cosines: Floats, number: int
) -> list[Neighbourhood]:
    """The first items, as many as `cosines` (Q, N) has rows, beside their nearest others of `items` (N,)."""
    source = probed.source
    rows = []
    for query, (line, places) in enumerate(zip(cosines, nearest(cosines, number), strict=True)):
        found = [
            Neighbour(
                source.image(items[place]),
                source.text(items[place]),
                float(line[place]),
                bool(families[place] == families[query]),
            )
            for place in places
        ]
        rows.append(Neighbourhood(source.image(items[query]), source.text(items[query]), found))
    return rows


def family_share(cosines: Floats, families: Families) -> FamilyShare:
    """The share for the first Q of the items with these `families` (N,), from their `cosines` (Q, N)."""
    queries = families[: len(cosines)]
    _, family, sizes = np.unique(families, return_inverse=True, return_counts=True)
    relatives = sizes[family[: len(cosines)]] - 1
    findable = relatives > 0
    if not findable.any():
        return FamilyShare(None, None, 0)
    same = families[cosines.argmax(axis=1)] == queries
    chance = relatives[findable] / (len(families) - 1)
    return FamilyShare(float(same[findable].mean()), float(chance.mean()), int(findable.sum()))


def item_attention(probed: ProbedModel, item: str, guess: bool, seed: int) -> ItemAttention | None:
    """Where a hidden word and a hidden patch of an item look: last block, mean over heads; None without any text.

    With `guess` (the model was trained with MLM) the word is the one of which the picture tells most: whose
    log-probability beside the picture, less that beside a gray one, is largest; otherwise it is drawn. The patch is the
    one with the most detail. While one of the two is hidden, all the rest of the item is shown.
    """
    batch = probed.batch([item])
    pieces, length = probed.tokenizer.tokens(batch.input_ids[0].tolist()), batch.input_ids.shape[1]
    places = hideable(pieces, batch.maskable[0].tolist())
    if not places:
        return None
    if guess:
        place, found = _guess(probed, batch, places)
    else:
        place, found = int(numpy_generator("attention word", seed, item).choice(places)), None
    grid = probed.model.config.grid
    patch = most_detailed_patch(batch.pixels[0], grid)
    text_mask, image_mask = torch.zeros_like(batch.maskable), batch.maskable.new_zeros(1, grid * grid)
    text_mask[0, place], image_mask[0, patch] = True, True
    from_word = attend(probed.model, batch, text_mask, None)[1][place]
    from_patch = attend(probed.model, batch, None, image_mask)[1][length + patch]
    return ItemAttention(
        probed.source.image(item),
        probed.source.text(item),
        pieces[place],
        found,
        from_word[length:].reshape(grid, grid).cpu().double().numpy(),
        divmod(patch, grid),
        share_words(pieces, batch.maskable[0].tolist(), from_patch[:length].tolist()),
        len(from_word),
    )


@torch.inference_mode()
def attend(model: Mlim, batch: ItemBatch, text_mask: Tensor | None, image_mask: Tensor | None) -> tuple[Fused, Tensor]:
    """Outputs of a batch of one item and the last block's attention (T + C, T + C), mean over heads; rows sum to 1."""
    block = cast(Block, model.backbone.encoder.blocks[-1])
    with _inputs_of(block) as inputs:
        output = model.forward_items(batch.input_ids, batch.text_attention, batch.pixels, text_mask, image_mask)
    return output, attention_weights(block, inputs[0].squeeze(0)).mean(dim=0)


def attention_weights(block: Block, hidden: Tensor) -> Tensor:
    """Each head's attention (heads, S, S) of a block to one item without padding, from the block's input (S, H).

    The fused kernels of the encoder never form it: softmax(q k' / sqrt(size)), Vaswani et al. 2017, equation 1.
    """
    query, key, _ = block.qkv(hidden).view(len(hidden), QKV, block.heads, -1).permute(1, 2, 0, 3).unbind(0)
    scores: Tensor = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1)


@contextmanager
def _inputs_of(block: Block) -> Iterator[list[Tensor]]:
    """What a block is given while the context is open."""
    inputs: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        yield inputs
    finally:
        handle.remove()


def hideable(pieces: Sequence[str], maskable: Sequence[bool]) -> list[int]:
    """Places of the content words that are one piece each; where there is none, of all maskable pieces."""
    continued = [piece.startswith(CONTINUATION) for piece in [*pieces[1:], ""]]
    content = [
        place
        for place, piece in enumerate(pieces)
        if maskable[place] and not continued[place] and not piece.startswith(CONTINUATION) and _is_word(piece)
    ]
    return content or [place for place in range(len(pieces)) if maskable[place]]


def share_words(pieces: Sequence[str], maskable: Sequence[bool], shares: Sequence[float]) -> list[WordShare]:
    """Words with the sum of their pieces' shares, in the order of the text; without punctuation."""
    words: list[WordShare] = []
    for piece, usable, share in zip(pieces, maskable, shares, strict=True):
        if not usable:
            continue
        if piece.startswith(CONTINUATION) and words:
            word = words.pop()
            text = word.text + piece.removeprefix(CONTINUATION)
            words.append(WordShare(text, word.share + share, word.pieces + 1))
        else:
            words.append(WordShare(piece, share, 1))
    return [word for word in words if any(map(str.isalnum, word.text))]


def most_detailed_patch(pixels: Tensor, grid: int) -> int:
    """The patch, row by row, within which the pixels of a picture (3, S, S) vary most."""
    side = pixels.shape[-1] // grid
    patches = pixels.reshape(len(pixels), grid, side, grid, side)
    return int(patches.std(dim=(2, 4), correction=0).mean(dim=0).argmax())


def _is_word(piece: str) -> bool:
    """Has a letter, and is more than one where words have several (M, the t of t-shirt)."""
    return any(map(str.isalpha, piece)) and (len(piece) > 1 or not piece.isascii())


def _guess(probed: ProbedModel, batch: ItemBatch, places: Sequence[int]) -> tuple[int, Guess]:
    """The place whose piece the picture tells most of, and what the model guesses there."""
    # The log-ratio is the pointwise mutual information of word and picture (Church and Hanks 1990), given the text.
    gray = batch._replace(pixels=torch.full_like(batch.pixels, GRAY / BRIGHTEST))
    seen, blind = (_guesses(probed, shown, places) for shown in (batch, gray))
    rows = torch.arange(len(places), device=seen.device)
    truths = batch.input_ids[0, list(places)]
    own, beside_gray = seen[rows, truths], blind[rows, truths]
    row = int((own - beside_gray).argmax())
    best = int(seen[row].argmax())
    likely = (float(value.exp()) for value in (seen[row, best], own[row], beside_gray[row]))
    return places[row], Guess(probed.tokenizer.tokens([best])[0], *likely)


@torch.inference_mode()
def _guesses(probed: ProbedModel, batch: ItemBatch, places: Sequence[int]) -> Tensor:
    """Log-probabilities (P, V) at each of the places of one item, each of them hidden alone."""
    masks = torch.zeros(len(places), batch.input_ids.shape[1], dtype=torch.bool, device=batch.input_ids.device)
    masks[torch.arange(len(places)), list(places)] = True
    found = []
    for start in range(0, len(places), probed.batch_size):
        part = masks[start : start + probed.batch_size]
        text, attention, pixels = (
            tensor.expand(len(part), *tensor.shape[1:])
            for tensor in (batch.input_ids, batch.text_attention, batch.pixels)
        )
        hidden = probed.model.forward_items(text, attention, pixels, part).text[part]
        found.append(probed.model.mlm_logits(hidden).float().log_softmax(dim=-1))
    return torch.cat(found)
