"""What pages, cards and documents say of the recipe: the parts that they name, and no others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlim.recipe.data import ImageConfig, LoaderConfig, TextConfig
from mlim.recipe.evaluate import EvaluateConfig, GateConfig
from mlim.recipe.finetune import FinetuneConfig, Variant
from mlim.recipe.model import ModelConfig
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.recipe.tracking import TrackingConfig


@dataclass(frozen=True)
class ReportedRecipe:
    """A recipe, as far as it is reported on; `as_yaml` is all of it.

    `variants` are those that match pairs, `other_variants` those that are fine-tuned to another task;
    `pretraining_pair`, `also_saw` and `stack_saw` are those of `Recipe`.
    """

    name: str
    seed: int
    seeds: tuple[int, ...]
    main: str
    main_variant: Variant
    pretraining_pair: tuple[str, str] | None
    also_saw: Callable[[Variant], tuple[str, ...]]
    stack_saw: Callable[..., tuple[str, ...]]
    variants: Mapping[str, Variant]
    other_variants: Mapping[str, Variant]
    pretrainings: Mapping[str, Pretraining]
    image: ImageConfig
    text: TextConfig
    loader: LoaderConfig
    model: ModelConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig
    gate: GateConfig
    tracking: TrackingConfig
    as_yaml: str
