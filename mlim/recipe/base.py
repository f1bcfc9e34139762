"""What the sections of a recipe share: the words that they are written in, and fields that are shares."""

from typing import Any, Literal

from pydantic import Field

Probability = float
Share = float
Modality = Literal["both", "text", "image"]
LossName = Literal["mlm", "recon", "itm"]
Stage = Literal["pretrain", "finetune"]
ReadOut = Literal["cls", "joint", "separate"]
Norm = Literal["pre", "post"]
Masking = Literal["mam", "naive", "text"]
Answering = Literal["classes", "text"]
AnnotationTable = Literal["regions", "captions", "questions", "statements"]  # as mlim/annotations names them
Scorer = Literal["matcher", "stack", "stack without matcher"]


def is_none(value: object) -> bool:
    """Whether a field is not used; a recipe that does not use it is written without it, as before there was one."""
    return value is None


def share(default: float, description: str) -> Any:
    """A field of 0 to 1."""
    return Field(default=default, ge=0.0, le=1.0, description=description)
