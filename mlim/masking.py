"""What is hidden from the transformer: MAM and naive masking (pre-training), modality dropout (fine-tuning).

Pure functions of (shapes, configuration, random numbers). Plans are drawn on the CPU, so that they do not depend on the
device a model runs on, and one row of numbers belongs to each sample, so that they do not depend on how a step is cut.
"""

from enum import StrEnum
from typing import NamedTuple, assert_never

import torch
from torch import Tensor

from mlim.recipe.base import Modality
from mlim.recipe.finetune import FinetuneConfig
from mlim.recipe.pretrain import MamMode, MaskingConfig


class MaskMode(StrEnum):
    """How one optimiser step is masked.

    One of MAM's three modes (paper section 3.1), the ablation's fixed rate, a fixed rate of texts alone, or not at all.
    """

    HEAVY_IMAGE = "heavy_image"
    HEAVY_TEXT = "heavy_text"
    LIGHT = "light"
    NAIVE = "naive"
    TEXT_ONLY = "text_only"
    UNMASKED = "unmasked"


MAM_MODES = (MaskMode.HEAVY_IMAGE, MaskMode.HEAVY_TEXT, MaskMode.LIGHT)


class MaskPlan(NamedTuple):
    """Which positions are replaced by [MASK]: `text` (B, T) bool and `image` (B, C) bool, both on the CPU."""

    mode: MaskMode
    text: Tensor
    image: Tensor


def draw_mam_mode(generator: torch.Generator) -> MaskMode:
    """One of MAM's three modes, each equally likely; drawn once per optimiser step."""
    return MAM_MODES[int(torch.randint(len(MAM_MODES), (), generator=generator))]


def draw_rows(generator: torch.Generator, first: int, count: int, width: int) -> Tensor:
    """Uniform numbers (count, width) in [0, 1) for the samples `first` to first + count - 1 of an optimiser step.

    A sample gets the same row however the step is cut into micro-batches and ranks.
    """
    return torch.rand((first + count, width), generator=generator)[first:]


def plan_masks(maskable: Tensor, text: Tensor, image: Tensor, mode: MaskMode, config: MaskingConfig) -> MaskPlan:
    """The masks of a batch in `mode`: independent, at the mode's rates, from one uniform number for each place.

    `maskable` (B, T) bool marks the real text tokens; [CLS], [SEP] and [PAD] are False there and never masked.
    `text` (B, at least T) and `image` (B, C) are the uniform numbers.
    """
    rates = probabilities(mode, config)
    return MaskPlan(mode, (text[:, : maskable.shape[1]] < rates.text) & maskable, image < rates.image)


def probabilities(mode: MaskMode, config: MaskingConfig) -> MamMode:
    """The masking probabilities of text and image that `mode` stands for."""
    match mode:
        case MaskMode.HEAVY_IMAGE:
            return config.mam.heavy_image
        case MaskMode.HEAVY_TEXT:
            return config.mam.heavy_text
        case MaskMode.LIGHT:
            return config.mam.light
        case MaskMode.NAIVE:
            return MamMode(text=config.naive, image=config.naive)
        case MaskMode.TEXT_ONLY:
            return MamMode(text=config.text, image=0.0)
        case MaskMode.UNMASKED:
            return MamMode(text=0.0, image=0.0)
        case _:
            assert_never(mode)


def draw_modality(config: FinetuneConfig, generator: torch.Generator) -> Modality:
    """What an optimiser step of fine-tuning keeps under modality dropout (paper section 4.2.1)."""
    draw = float(torch.rand((), generator=generator))
    if draw < config.mdo_text_only:
        return "text"
    if draw < config.mdo_text_only + config.mdo_image_only:
        return "image"
    return "both"
