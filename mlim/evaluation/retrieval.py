"""Texts and pictures of a gallery, every one with every other: scores, and the ranks that recall is made of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mlim.data.batches import ItemBatch
from mlim.data.images import as_floats
from mlim.data.loader import chunks, fetch_ahead
from mlim.evaluation.metrics.measure import Values
from mlim.evaluation.metrics.recall import Keys, Searched, alike, cross_search, search
from mlim.models.system import JudgesAgreement, Shown, System, seen_once
from mlim.models.vectors import Compares
from mlim.recipe.retrieval import By

Collate = Callable[[Sequence[str]], ItemBatch]


class Gallery(NamedTuple):
    """Items that are searched; equal `texts` or `pictures` (n,) are equal content."""

    ids: Sequence[str]
    texts: Keys
    pictures: Keys


@torch.no_grad()
def search_gallery(
    system: System, by: By, gallery: Gallery, collate: Collate, batch_size: int
) -> tuple[Searched, Searched]:
    """The pictures of each item's text, and the texts of its picture; on the system's device.

    The training mode is left as it was.
    """
    training = system.training
    system.eval()
    try:
        if by == "itc":
            text, image = _vectors(cast(Compares, system), gallery.ids, collate, batch_size)
            return cross_search(text, image, gallery.texts, gallery.pictures)
        scores = agreements(system, gallery.ids, collate, batch_size)
    finally:
        system.train(training)
    hits = alike(np.arange(len(gallery.ids)), gallery.texts, gallery.pictures)
    return search(scores, hits), search(scores.T, hits.T)


def _vectors(system: Compares, ids: Sequence[str], collate: Collate, batch_size: int) -> tuple[Values, Values]:
    """Vectors (n, D) of the texts and of the pictures."""
    device = next(system.projection.parameters()).device
    found = []
    for batch in fetch_ahead(collate, chunks(ids, batch_size)):
        pixels = as_floats(batch.pixels.to(device))
        found.append(system.vectors(Shown(batch.input_ids.to(device), batch.text_attention.to(device), pixels)))
    return _whole([each.text for each in found]), _whole([each.image for each in found])


def agreements(system: System, ids: Sequence[str], collate: Collate, batch_size: int) -> Values:
    """Logits (n, n) of every text with every picture: one pass for each, `batch_size` pictures at a time."""
    judge, device = cast(JudgesAgreement, system), next(system.parameters()).device
    batches = [*fetch_ahead(collate, chunks(ids, batch_size))]
    texts = [text for batch in batches for text in _texts(batch, device)]
    columns = []
    for batch in batches:
        nothing = batch.input_ids[:, :0].to(device)
        shown = seen_once(system, Shown(nothing, nothing.bool(), as_floats(batch.pixels.to(device))))
        columns.append(_whole([_agreement(judge, text, shown) for text in texts]).reshape(len(texts), -1))
    return np.concatenate(columns, axis=1)


def _texts(batch: ItemBatch, device: torch.device) -> list[Tensor]:
    """The token ids (T,) of each item without padding."""
    return [ids[held].to(device) for ids, held in zip(batch.input_ids, batch.text_attention, strict=True)]


def _agreement(judge: JudgesAgreement, text: Tensor, shown: Shown) -> Tensor:
    """Logits (p,) of one text with each of the p pictures that are shown."""
    ids = text.expand(len(shown.input_ids), -1)
    fused = judge.fuse(shown._replace(input_ids=ids, text_attention=torch.ones_like(ids, dtype=torch.bool)))
    return judge.itm_logits(fused.text[:, 0])


def _whole(parts: Sequence[Tensor]) -> Values:
    return torch.cat([*parts]).cpu().double().numpy()
