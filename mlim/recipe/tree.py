"""The whole recipe: everything that decides a result, in one typed tree.

Only steps, flows and the command line import this module: a step hands each of its helpers the section that it needs.
"""

import hashlib
import json
import operator
from collections.abc import Iterator
from math import prod
from typing import Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mlim.config import Config, PlainName, nearest
from mlim.recipe.annotated import tables_read
from mlim.recipe.base import AnnotationTable, Stage
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.data import AUTO, ImageConfig, IngestConfig, LoaderConfig, PairsConfig, TextConfig, ValidationConfig
from mlim.recipe.evaluate import EvaluateConfig, GateConfig, ProbeConfig, PromotionConfig, StackConfig
from mlim.recipe.finetune import FinetuneConfig, Variant
from mlim.recipe.image_sides import ANNOTATED, GRID, RANDOM_START, LiteSide, RegionSide
from mlim.recipe.match import MatchConfig
from mlim.recipe.model import ModelConfig
from mlim.recipe.pretrain import PretrainConfig, Pretraining
from mlim.recipe.record import RecipeRecord, record_of
from mlim.recipe.retrieval import RetrievalConfig
from mlim.recipe.systems import MLIM, NetworkSections, SystemConfig, region_side
from mlim.recipe.tasks import FinetuneTask, OtherTask, TasksConfig
from mlim.recipe.tracking import TrackingConfig
from mlim.recipe.training import ComputeConfig
from mlim.recipe.tuning import OtherTuningConfig, TuningConfig

FIRST_READ_OUT = "cls"  # the only one when results were first named: theirs keep their names
FIRST_TEXT_KEYS = ("max_tokens", "vocabulary_size")  # likewise
KEY_DIGITS = 16
NOT_WRITTEN = "only answers are written; leave it out"
HEAD_IS_LEARNED = "this task's head has to be learned; leave it out, or choose another task"


class Recipe(Config):
    """The whole tree; see the recipes folder for complete examples."""

    name: PlainName = Field(description="of the work folder `build/NAME`, unless --work names another")
    seed: NonNegativeInt = Field(default=0, description="of the pairs, the resampling and the sampling of items")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="that trains and evaluates; auto: the first of cuda, mps and cpu that is there"
    )
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    ingest: IngestConfig = IngestConfig()
    validation: ValidationConfig = ValidationConfig()
    pairs: PairsConfig = PairsConfig()
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    loader: LoaderConfig = LoaderConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    tasks: TasksConfig = Field(
        default=TasksConfig(),
        exclude_if=lambda tasks: tasks.is_empty,
        description="fine-tuning tasks besides matching, a section each, as `finetune` is that of matching",
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    stack: StackConfig = StackConfig()
    gate: GateConfig = GateConfig()
    promotion: PromotionConfig = PromotionConfig()
    probe: ProbeConfig = ProbeConfig()
    match: MatchConfig = MatchConfig()
    systems: dict[PlainName, SystemConfig] = Field(
        default_factory=dict,
        exclude_if=operator.not_,
        description="shapes of networks by name; MLIM's is the section `model`",
    )
    pretrainings: dict[PlainName, Pretraining] = Field(description="by name, which names a folder of the results")
    variants: dict[PlainName, Variant] = Field(description="by name, which names a folder of the results")
    main: str = Field(description="the variant that is reported first and registered")
    seeds: tuple[NonNegativeInt, ...] = Field(
        default=(0,), min_length=1, description="seeds of every run; the first is the main model's"
    )
    finetunings: PositiveInt = Field(
        default=1,
        description="of each variant and seed: several average the variance of fine-tuning for a fraction of what "
        "another pre-training costs; the first is the seed's own, `mlim ablate` trains the others",
    )
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [
            *self._size_problems(),
            *self._reference_problems(),
            *(self._system_problems() or self._tuning_problems()),
            *self._order_problems(),
            *self._joining_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _size_problems(self) -> list[str]:
        problems = []
        for name, strides, layers in (
            ("embedder", self.model.embedder.strides, self.model.embedder.layers),
            ("decoder", self.model.decoder.strides, self.model.decoder.layers),
        ):
            product = prod(strides)
            if product * self.image.grid != self.image.size:
                problems.append(
                    f"image.size {self.image.size} must be image.grid {self.image.grid} x the product {product} of "
                    f"model.{name}.strides (= {self.image.grid * product})"
                )
            if len(strides) > layers:
                problems.append(f"model.{name} has {len(strides)} strides but only {layers} layers (channels + 1)")
        features, patch = self.model.embedder.features, self.image.size // self.image.grid
        if features is not None and patch not in (16, 32):
            problems.append(f"model.embedder.features {features} has patches of 16 or 32 pixels, image.grid of {patch}")
        return problems

    def _order_problems(self) -> list[str]:
        chosen = {"finetune.read_out": self.finetune.read_out}
        chosen |= {f"variants.{name}.read_out": each.read_out for name, each in self.variants.items() if each.read_out}
        return [
            f"{key} {read_out} does not depend on the order of the items, which model.pair_segments tells apart: set "
            "pair_segments to false, or read_out to cls"
            for key, read_out in chosen.items()
            if self.model.pair_segments and read_out != "cls"
        ]

    def _joining_problems(self) -> list[str]:
        if (blocks := self.finetune.joint_blocks) is None:
            return []
        problems, name = [], f"finetune.joint_blocks {blocks}"
        if blocks > self.model.layers:
            problems.append(f"{name}: the model has {self.model.layers} blocks (model.layers); choose at most as many")
        if self.finetune.read_out == "separate":
            problems.append(f"{name}: with finetune.read_out separate no block reads both items; leave it out")
        if self.model.pair_segments:
            problems.append(f"{name}: an item is read without its place in the pair; set model.pair_segments to false")
        return problems

    def _system_problems(self) -> list[str]:
        problems = [
            f"systems.{name}: {problem}"
            for name, system in self.systems.items()
            for problem in system.problems(self.image)
        ]
        problems += [
            f"systems.{name}.text_start: the words of {system.text_start} are numbers of its own tokenizer; set "
            f"model.start={system.text_start}"
            for name, system in self.systems.items()
            if isinstance(system, CrossedSystem) and system.text_start not in (RANDOM_START, self.model.start)
        ]
        for name, pretraining in self.pretrainings.items():
            if pretraining.system is not None and pretraining.system not in self.systems:
                known = nearest(pretraining.system, list(self.systems))
                problems.append(f"pretrainings.{name}.system: no system `{pretraining.system}`{known}")
            else:
                problems += self._task_problems(name, pretraining)
        problems += [*self._region_problems(), *self._sample_problems()] if not problems else []
        if problems:  # variants refer to them
            return problems
        variants = self.variants.items()
        return [problem for name, each in variants for problem in self._variant_system_problems(name, each)]

    def _task_problems(self, name: str, pretraining: Pretraining) -> list[str]:
        system, problems = self.system_of(pretraining), []
        if system.maskings and pretraining.masking not in (None, *system.maskings):
            problems.append(
                f"pretrainings.{name}.masking: {pretraining.masking} hides parts of pictures, which system "
                f"{system.kind} reads whole; set it to {' or '.join(system.maskings)}"
            )
        for task in pretraining.all_tasks:
            if task.needs not in system.offers:
                problems.append(
                    f"pretrainings.{name}: task {task.task} needs {task.needs}, which system {system.kind} does not "
                    f"offer (it offers {', '.join(sorted(system.offers))})"
                )
            if task.needs_whole_batch and self.pretrain.accumulate > 1:
                problems.append(
                    f"pretrainings.{name}: task {task.task} looks at a whole batch, so that pretrain.accumulate "
                    f"{self.pretrain.accumulate} would change its loss; set pretrain.accumulate to 1"
                )
        if self.pretrain.batch_size % self.together(pretraining):
            problems.append(
                f"pretrainings.{name}: two neighbours of a batch exchange their pictures, so that pretrain.batch_size "
                f"{self.pretrain.batch_size} must be even"
            )
        return [*problems, *self._attribute_problems(name, pretraining)]

    def _sample_problems(self) -> list[str]:
        """Pictures that no task reads a part of: captions are written about whole ones."""
        problems = []
        for name, system in self.systems.items():
            sample = getattr(getattr(system, "image", None), "sample", None)
            starts = [each for each in self.pretrainings.values() if each.system == name]
            needs = {task.needs for each in starts for task in each.all_tasks}
            if sample is not None and needs == {"writing"}:
                problems.append(
                    f"systems.{name}.image.sample {sample}: task caption reads whole pictures, and no other task reads "
                    "this system; leave sample out"
                )
        return problems

    def _attribute_problems(self, name: str, pretraining: Pretraining) -> list[str]:
        side = region_side(self.system_of(pretraining))
        if side is None or side.source != GRID or "region-attribute" not in pretraining.task_names:
            return []
        return [
            f"pretrainings.{name}: task region-attribute needs regions with attributes, which a grid has not; "
            "read regions of another source, or leave it out"
        ]

    @property
    def stored_regions(self) -> dict[str, RegionSide]:
        """The regions that systems read from the work folder, by the system's name."""
        sides = {name: region_side(system) for name, system in self.systems.items()}
        return {name: side for name, side in sides.items() if side is not None and side.is_stored}

    def _region_problems(self) -> list[str]:
        """Detectors that find none, and two systems that want the same regions to be different ones."""
        problems, first = list[str](), dict[str, str]()
        for name, side in self.stored_regions.items():
            where, other = f"systems.{name}.image", first.setdefault(side.source, name)
            if self.stored_regions[other].store != side.store:
                problems.append(
                    f"{where}: wants other regions of {side.source} than systems.{other}; give both the same"
                )
            if side.detector is not None and side.detector not in self.pretrainings:
                known = nearest(side.detector, list(self.pretrainings))
                problems.append(f"{where}.source: no pre-training `{side.detector}`{known}")
            elif side.detector is not None and not self.pretrainings[side.detector].detects_alone:
                problems.append(
                    f"{where}.source: pre-training {side.detector} has no task detect that reads pictures alone; add "
                    "`{task: detect, text: false}`"
                )
        return problems

    def _variant_system_problems(self, name: str, variant: Variant) -> list[str]:
        if variant.system is not None and variant.pretraining is not None:
            return [f"variants.{name}.system: is that of pre-training `{variant.pretraining}`; leave it out"]
        if variant.system is not None and variant.system not in self.systems:
            known = nearest(variant.system, list(self.systems))
            return [f"variants.{name}.system: no system `{variant.system}`{known}"]
        if variant.pretraining is not None and variant.pretraining not in self.pretrainings:
            return []  # said elsewhere
        offered = self.system_of(variant).read_outs
        if variant.read_out is not None and variant.read_out not in offered:
            return [f"variants.{name}.read_out: its system offers {', '.join(offered)}, not {variant.read_out}"]
        return self._label_problems(name, variant) if self.systems else []

    def _label_problems(self, name: str, variant: Variant) -> list[str]:
        """Whoever reads a table has to see which variants have seen more than the catalog."""
        saw = self._weights_saw(self.system_of(variant))
        if saw is None or saw in variant.label:
            return []
        return [f"variants.{name}.label: its network has also seen {saw}, which others have not; name it in the label"]

    def also_saw(self, entry: Pretraining | Variant) -> tuple[str, ...]:
        """What one has seen that others may not have: boxes, attributes, questions, and what its weights have."""
        start = self._pretraining_of(entry)
        saw = [name for task in (() if start is None else start.all_tasks) for name in task.also_saw]
        side = region_side(system := self.system_of(entry))
        if side is not None and side.source == ANNOTATED:
            saw.append("boxes")
        if side is not None and side.detector is not None:
            saw += [name for task in self.pretrainings[side.detector].all_tasks for name in task.also_saw]
        weights = self._weights_saw(system)
        return tuple(dict.fromkeys([*saw, *([] if weights is None else [weights])]))

    def stack_saw(self, *, matcher: bool) -> tuple[str, ...]:
        """The same of a stack of the main variant, or of its other parts without the `matcher`."""
        parts = self.stack.also_saw
        saw = [*(self.also_saw(self.main_variant) if matcher else ()), *([] if parts is None else [parts])]
        return tuple(dict.fromkeys(saw))

    def together(self, entry: Pretraining | Variant) -> int:
        """How many examples of a batch a device has to hold together, because a loss looks at all of them."""
        if isinstance(entry, Pretraining):
            return 2 if any(task.exchanges for task in entry.all_tasks) else 1
        section = self.tuning_of(entry)
        whole = isinstance(section, RetrievalConfig) and section.way(self.system_of(entry).offers) == "itm"
        return section.batch_size if whole else 1

    def _pretraining_of(self, entry: Pretraining | Variant) -> Pretraining | None:
        if isinstance(entry, Pretraining):
            return entry
        return None if entry.pretraining is None else self.pretrainings[entry.pretraining]

    def system_name(self, entry: Pretraining | Variant) -> str:
        """What the recipe calls the system of a pre-training or a variant."""
        start = self._pretraining_of(entry)
        return (entry if start is None else start).system or MLIM.kind

    def _weights_saw(self, system: SystemConfig) -> str | None:
        """What the weights of a system, or of the one that finds its regions, have seen beside the catalog."""
        if system == MLIM:
            return self.model.embedder.also_saw
        side = region_side(system)
        if side is None or side.detector is None:
            return system.also_saw
        return self._weights_saw(self.system_of(self.pretrainings[side.detector]))

    def _tuning_problems(self) -> list[str]:
        problems = []
        main = region_side(self.system_of(self.main_variant)) if self.main in self.variants else None
        if main is not None and main.is_stored:
            problems.append(
                f"main: variant `{self.main}` reads regions that are stored beside the catalog, and the main variant "
                "has to match items of any; name one that reads pictures"
            )
        if self.main in self.variants and self.main_variant.task != "match":
            problems.append(
                f"main: variant `{self.main}` is fine-tuned to {self.main_variant.task}; name one that matches"
            )
        for name, variant in self.variants.items():
            if variant.pretraining is None or variant.pretraining in self.pretrainings:
                problems += [f"variants.{name}{problem}" for problem in self._variant_task_problems(variant)]
        return problems

    def _variant_task_problems(self, variant: Variant) -> list[str]:
        """What of a variant does not fit its task, after its name."""
        if variant.task == "match":
            others = [".text_of: pairs have the items' own texts; leave it out"] if variant.text_of == "other" else []
            others += [f".by: {NOT_WRITTEN}"] if variant.by == "text" else []
            return [*others, *([f".zero_shot: {HEAD_IS_LEARNED}"] if variant.zero_shot else [])]
        task, section, system = variant.task, self.tasks.section(variant.task), self.system_of(variant)
        if section is None:
            return [f".task: {task} needs its section; add `tasks: {{{task}: {{}}}}` with what differs in it"]
        problems = [*self._reading_problems(variant, section)]
        if variant.read_out is not None:
            problems.append(f".read_out: is about pairs, and {task} has none; leave it out")
        if variant.zero_shot and not section.can_be_zero_shot:
            problems.append(f".zero_shot: {HEAD_IS_LEARNED}")
        elif variant.zero_shot and not self._has_learned(variant, needs := section.needs_learned(system.offers)):
            problems.append(f".zero_shot: needs a pre-training with task {needs}; choose one")
        return [*problems, *self._reader_problems(variant, section)]

    def _reader_problems(self, variant: Variant, section: OtherTuningConfig) -> Iterator[str]:
        """What a task needs that a variant's system does not offer."""
        system = self.system_of(variant)
        offered = f"which system {system.kind} does not offer (it offers {', '.join(sorted(system.offers))})"
        if variant.by == "text" and not section.can_be_written:
            yield f".by: {NOT_WRITTEN}"
        elif variant.by == "text" and "writing" not in system.offers:
            yield f".by: text needs writing, {offered}"
        elif variant.by == "classes" and (problem := section.problem(system)):
            yield f".task: {variant.task} {problem}, {offered}"

    def _reading_problems(self, variant: Variant, section: OtherTuningConfig) -> Iterator[str]:
        """What a variant reads that its task does not."""
        if variant.modality not in section.modalities:
            known = " or ".join(sorted(section.modalities))
            yield f".modality: {variant.task} needs {known}, not {variant.modality} alone"
        if variant.text_of == "other" and not (section.texts_can_be_others and variant.modality == "both"):
            yield f".text_of: {variant.task} with modality {variant.modality} reads no other text; leave it out"

    def _has_learned(self, variant: Variant, task: str | None) -> bool:
        """Whether the pre-training of a variant has a task; without a `task` there is nothing to learn."""
        if task is None or variant.pretraining is None:
            return task is None
        return any(one.task == task for one in self.pretrainings[variant.pretraining].all_tasks)

    def _reference_problems(self) -> list[str]:
        problems = []
        if len(set(self.seeds)) < len(self.seeds):  # the same model twice would look like two that agree
            problems.append(f"seeds: {list(self.seeds)} names a seed twice; name each once")
        if self.main not in self.variants:
            problems.append(f"main: no variant `{self.main}`{nearest(self.main, list(self.variants))}")
        for name, variant in self.variants.items():
            if variant.pretraining is not None and variant.pretraining not in self.pretrainings:
                known = nearest(variant.pretraining, list(self.pretrainings))
                problems.append(f"variants.{name}.pretraining: no pre-training `{variant.pretraining}`{known}")
        return problems

    @property
    def annotations(self) -> frozenset[AnnotationTable]:
        """The tables of annotations that what it declares reads (`mlim.recipe.annotated`)."""
        return tables_read(self.tasks, self.pretrainings.values(), self.systems.values())

    @property
    def learns_annotated_words(self) -> bool:
        """Whether its tokenizers are learned, and from the texts of annotations, too."""
        return bool(self.annotations) and self.model.start == RANDOM_START

    @property
    def main_variant(self) -> Variant:
        """The variant that is reported first and registered."""
        return self.variants[self.main]

    def reading(self, max_tokens: int) -> Self:
        """The recipe with a number of tokens, found in the texts, as its limit."""
        return self.model_copy(update={"text": self.text.model_copy(update={"max_tokens": max_tokens})})

    @property
    def network(self) -> NetworkSections:
        """The sections that shape networks and what they read."""
        return NetworkSections(self.image, self.text, self.model)

    def system_of(self, entry: Pretraining | Variant) -> SystemConfig:
        """The system of a pre-training or a variant."""
        if isinstance(entry, Variant) and entry.pretraining is not None:
            return self.system_of(self.pretrainings[entry.pretraining])
        return MLIM if entry.system is None else self.systems[entry.system]

    @property
    def reads_lite(self) -> bool:
        """Whether a network of it, or its stack, has the weights of EfficientNet-Lite0, which a package carries."""
        entries: list[Pretraining | Variant] = [*self.pretrainings.values(), *self.variants.values()]
        return self.stack.features is not None or any(self._reads_lite(self.system_of(entry)) for entry in entries)

    def _reads_lite(self, system: SystemConfig) -> bool:
        if system == MLIM:
            return self.model.embedder.features is not None
        side = region_side(system)
        return isinstance(getattr(system, "image", None) if side is None else side.features, LiteSide)

    def of_task(self, task: FinetuneTask) -> Self:
        """The recipe with the variants of one task alone."""
        variants = {name: variant for name, variant in self.variants.items() if variant.task == task}
        return self.model_copy(update={"variants": variants})

    @property
    def other_tasks(self) -> tuple[OtherTask, ...]:
        """The tasks besides matching that some variant is fine-tuned to, in the order of their first variants."""
        return tuple(dict.fromkeys(variant.task for variant in self.variants.values() if variant.task != "match"))

    def tuning_of(self, variant: Variant) -> TuningConfig:
        """The section of a variant's task, as it is for the variant."""
        if variant.task == "match":
            return self.finetuning_of(variant)
        section = self.tasks.section(variant.task)
        if section is None:  # refused with the recipe
            raise ValueError(f"the recipe has no section tasks.{variant.task}")
        return section

    def finetuning_of(self, variant: Variant) -> FinetuneConfig:
        """The section `finetune` as it is for a variant: with its own read-out, or the only one that its system has.

        `joint_blocks` is left out where it changes nothing.
        """
        known = self.system_of(variant).read_outs
        read_out = variant.read_out or (self.finetune.read_out if self.finetune.read_out in known else known[0])
        whole = read_out == "separate" or self.finetune.joint_blocks == self.model.layers
        joint_blocks = None if whole else self.finetune.joint_blocks
        return self.finetune.model_copy(update={"read_out": read_out, "joint_blocks": joint_blocks})

    @property
    def pretraining_pair(self) -> tuple[str, str] | None:
        """The main variant and the first that differs from it in nothing but having a pre-training, or none.

        The pre-trained one comes first; None where no variant is such.
        """
        main = self.main_variant
        for name, variant in self.variants.items():
            same = (variant.mdo, variant.modality, variant.task) == (main.mdo, main.modality, main.task)
            if not same or self.system_of(variant) != self.system_of(main):
                continue
            if (variant.pretraining is None) != (main.pretraining is None):
                return (self.main, name) if variant.pretraining is None else (name, self.main)
        return None

    def training_key(self, stage: Stage, name: str) -> str:
        """A short hash of all settings that decide what the pre-training or variant `name` becomes, whatever the seed.

        Two results with the same key, seed and data are the same result; how often a checkpoint was written, or on how
        many devices it was trained, is not in it.
        """
        text = json.dumps(self._deciding(stage, name), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def _deciding(self, stage: Stage, name: str) -> list[Any]:
        entry: Pretraining | Variant = self.pretrainings[name] if stage == "pretrain" else self.variants[name]
        network = self._deciding_network(entry)
        section = self.pretrain if isinstance(entry, Pretraining) else self.tuning_of(entry)
        settings = section.model_dump(mode="json", exclude={"checkpoint", "max_skipped_steps"})
        if settings.get("read_out") == FIRST_READ_OUT:
            del settings["read_out"]
        if settings.get("balance") is None:  # as when results were first named
            settings.pop("balance", None)
        if settings.get("attribute_weight") == 0:
            del settings["attribute_weight"]
        if settings.get("max_pairs") is None:
            settings.pop("max_pairs", None)
        if isinstance(entry, Pretraining):
            return [network, settings, entry.deciding()]
        start = None if entry.pretraining is None else self._deciding("pretrain", entry.pretraining)
        task: list[Any] = [] if entry.task == "match" else [entry.task, entry.zero_shot]
        task += [entry.text_of] if entry.text_of == "other" else []  # as when results were first named
        task += [entry.by] if entry.by == "text" else []
        return [network, settings, entry.mdo, entry.modality, start, *task]

    def _deciding_network(self, entry: Pretraining | Variant) -> dict[str, Any]:
        """What shapes a network and what it reads; of detected regions also how the detector is trained."""
        network = self.model_dump(mode="json", include={"image", "text", "model"})
        if self.text.max_tokens != AUTO:  # no other setting finds the number then
            network["text"] = {key: network["text"][key] for key in FIRST_TEXT_KEYS}
        if self.learns_annotated_words:
            network["text"]["annotated"] = True
        if (system := self.system_of(entry)) != MLIM:
            network["system"] = system.model_dump(mode="json")
        if (side := region_side(system)) is not None and side.detector is not None:
            network["detector"] = self._deciding("pretrain", side.detector)
        return network

    @property
    def record(self) -> RecipeRecord:
        """What is written down of it beside results."""
        return record_of(self)

    def to_yaml(self) -> str:
        """The complete recipe as YAML, in the order of the tree; `load_recipe` reads it back to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
