"""The recipe: everything that decides a result, in one typed tree, by sections.

Named recipes (`demo`, `small`, `paper`) are YAML files beside this package. What the paper leaves open is a field here,
so that every choice is visible and can be changed (docs/paper-decisions.md lists them).
"""

from mlim.recipe.asked import AnswerConfig, StatementConfig
from mlim.recipe.base import LossName, Modality, Probability, ReadOut, Scorer, Share, Stage
from mlim.recipe.captioning import CaptioningConfig
from mlim.recipe.data import (
    AUTO,
    FEWEST_TOKENS,
    MAX_NEAR_BITS,
    DriftConfig,
    ImageConfig,
    IngestConfig,
    LoaderConfig,
    PairsConfig,
    TextConfig,
    ValidationConfig,
)
from mlim.recipe.detecting import DetectingConfig
from mlim.recipe.evaluate import EvaluateConfig, GateConfig, ProbeConfig, PromotionConfig, StackConfig
from mlim.recipe.finetune import FinetuneConfig, Variant
from mlim.recipe.model import DecoderConfig, EmbedderConfig, ModelConfig
from mlim.recipe.pretrain import (
    BalanceConfig,
    LossWeights,
    MamConfig,
    MamMode,
    MaskingConfig,
    PretrainConfig,
    Pretraining,
)
from mlim.recipe.record import RecipeRecord
from mlim.recipe.retrieval import RetrievalConfig
from mlim.recipe.storage import complete_recipe, load_recipe, recipe_names, recipe_purpose, resolve, stored_recipe
from mlim.recipe.tracking import TrackingConfig
from mlim.recipe.training import CheckpointConfig, ComputeConfig, OptimConfig, RatesConfig, TraceConfig
from mlim.recipe.tree import Recipe
from mlim.recipe.tuning import TuningConfig

__all__ = [
    "AUTO",
    "FEWEST_TOKENS",
    "MAX_NEAR_BITS",
    "AnswerConfig",
    "BalanceConfig",
    "CaptioningConfig",
    "CheckpointConfig",
    "ComputeConfig",
    "DecoderConfig",
    "DetectingConfig",
    "DriftConfig",
    "EmbedderConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "GateConfig",
    "ImageConfig",
    "IngestConfig",
    "LoaderConfig",
    "LossName",
    "LossWeights",
    "MamConfig",
    "MamMode",
    "MaskingConfig",
    "Modality",
    "ModelConfig",
    "OptimConfig",
    "PairsConfig",
    "PretrainConfig",
    "Pretraining",
    "Probability",
    "ProbeConfig",
    "PromotionConfig",
    "RatesConfig",
    "ReadOut",
    "Recipe",
    "RecipeRecord",
    "RetrievalConfig",
    "Scorer",
    "Share",
    "StackConfig",
    "Stage",
    "StatementConfig",
    "TextConfig",
    "TraceConfig",
    "TrackingConfig",
    "TuningConfig",
    "ValidationConfig",
    "Variant",
    "complete_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_purpose",
    "resolve",
    "stored_recipe",
]
