"""What is hidden from the transformer: MAM and naive masking (pre-training), modality dropout (fine-tuning).

Pure functions of (shapes, configuration, generator): the same generator state gives the same plan. Plans are drawn on
the CPU, so that they do not depend on the device a model runs on.
"""

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

from mlim.recipe import FinetuneConfig, MamMode, MaskingConfig, Modality


class MaskMode(StrEnum):
    """How one micro-batch is masked: one of MAM's three modes (paper section 3.1), or the ablation's fixed rate."""

    HEAVY_IMAGE = "heavy_image"
    HEAVY_TEXT = "heavy_text"
    LIGHT = "light"
    NAIVE = "naive"


MAM_MODES = (MaskMode.HEAVY_IMAGE, MaskMode.HEAVY_TEXT, MaskMode.LIGHT)


class MaskPlan(NamedTuple):
    """Which positions are replaced by [MASK]: `text` (B, T) bool and `image` (B, C) bool, both on the CPU."""

    mode: MaskMode
    text: Tensor
    image: Tensor


def draw_mam_mode(generator: torch.Generator) -> MaskMode:
    """One of MAM's three modes, each equally likely; drawn once per micro-batch."""
    return MAM_MODES[int(torch.randint(len(MAM_MODES), (), generator=generator))]


def plan_masks(
    maskable: Tensor, cells: int, mode: MaskMode, config: MaskingConfig, generator: torch.Generator
) -> MaskPlan:
    """The masks of one micro-batch in `mode`.

    `maskable` (B, T) bool marks the real text tokens; [CLS], [SEP] and [PAD] are False there and never masked.
    `cells` is the number C of image cells per item.
    """
    text, image = draw_masks(maskable, cells, probabilities(mode, config), generator)
    return MaskPlan(mode, text, image)


def probabilities(mode: MaskMode, config: MaskingConfig) -> MamMode:
    """The masking probabilities of text and image that `mode` stands for."""
    if mode is MaskMode.NAIVE:
        return MamMode(text=config.naive, image=config.naive)
    return {
        MaskMode.HEAVY_IMAGE: config.mam.heavy_image,
        MaskMode.HEAVY_TEXT: config.mam.heavy_text,
        MaskMode.LIGHT: config.mam.light,
    }[mode]


def draw_masks(maskable: Tensor, cells: int, rates: MamMode, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Independent masks at the given rates: text (B, T) bool inside `maskable`, image (B, C) bool.

    A text rate above 0 masks at least one token of the batch (where there is one), so that a batch that is meant
    to teach MLM never counts nothing.
    """
    allowed = maskable.cpu()
    text = (torch.rand(allowed.shape, generator=generator) < rates.text) & allowed
    if rates.text > 0 and not text.any() and allowed.any():
        candidates = allowed.nonzero()
        row, column = candidates[int(torch.randint(len(candidates), (), generator=generator))]
        text[row, column] = True
    image = torch.rand((len(allowed), cells), generator=generator) < rates.image
    return text, image


def draw_modality(config: FinetuneConfig, generator: torch.Generator) -> Modality:
    """What a micro-batch of fine-tuning keeps under modality dropout (paper section 4.2.1)."""
    draw = float(torch.rand((), generator=generator))
    if draw < config.mdo_text_only:
        return "text"
    if draw < config.mdo_text_only + config.mdo_image_only:
        return "image"
    return "both"
