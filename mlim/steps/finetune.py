"""`mlim finetune`: a variant learns its task: to match pairs (paper sections 3.3 and 4.2.1), or another one."""

from collections.abc import Mapping
from contextlib import nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, assert_never

import pandas as pd
import torch

from mlim.console import Terminal
from mlim.data.objects import Known
from mlim.data.seeds import seed_of
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.evaluation.scores import SCORES_FILE
from mlim.files import read_json, sha256_of
from mlim.models.config import TEXT_SPECIALS
from mlim.models.storage import WEIGHTS_FILE
from mlim.models.system import System
from mlim.models.systems import load_system, plan_system
from mlim.models.weights import Planned
from mlim.recipe import Recipe, Variant
from mlim.recipe.finetune import BEYOND_MATCHING
from mlim.recipe.tasks import FinetuneTask
from mlim.steps.annotated import known_from
from mlim.steps.answering import answer_data, answer_tuning
from mlim.steps.captioning import CaptionTuning, caption_data
from mlim.steps.detecting import DetectTuning, detect_data
from mlim.steps.labelled import keep_labels
from mlim.steps.matching import MatchTuning, check_pairs
from mlim.steps.public_forms import write_public_forms
from mlim.steps.retrieval import RetrievalTuning, check_items
from mlim.steps.stating import statement_data, statement_tuning
from mlim.steps.tags import tag_training
from mlim.steps.trained import (
    HISTORY_FILE,
    MODEL_FOLDER,
    SUMMARY_FILE,
    TRACE_FILE,
    Resume,
    TrainingData,
    device_context,
    finished,
    forget_samples,
    keep_samples,
    made_by,
    make_tokenizer,
    named,
    open_checkpoints,
    open_training_data,
    regions_for,
    result_folder,
    system_sections,
    training_batches,
    training_size,
    training_summary,
    with_limit,
    with_pairs,
    with_regions,
    with_words,
    write_training,
)
from mlim.steps.tuning import Tuning, TuningInputs
from mlim.steps.written_answers import WrittenAnswerTuning
from mlim.tracking import stage_run
from mlim.training.checkpoint import Checkpoints, fingerprint_of
from mlim.training.device import DeviceContext
from mlim.training.loop import Trainer, one_step
from mlim.training.metric_logger import VALIDATED
from mlim.training.protocols import MetricSink, NullLogger, TrainResult
from mlim.versions import lineage
from mlim.workspace import Workspace, run_name

STAGE: Final = "finetune"
SEEDS: Final = 1 << 31  # of further fine-tunings; as a person's, they fit everywhere


def finetune(
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    variant: str,
    seed: int,
    resume: Resume = "auto",
    again: int = 0,
) -> dict[str, Any]:
    """Fine-tune one variant, score the validation and test splits, write workspace.finetuned(variant, seed).

    `again` above 0 is a further fine-tuning from the same pre-training, with draws of its own, in a folder of its own.
    `resume="auto"` continues an interrupted training of the same recipe, data and start; `never` starts from the
    beginning; `keep` also keeps one that was finished with `keep` by the same recipe, data, start and code.

    `InputError` for missing inputs, `Interrupted` when stopped by a signal, `MlimError` when training fails. Of several
    processes that train together (`torchrun`) the first one writes and returns the summary; the others return nothing.
    """
    folder, out = workspace.checkpoints(STAGE, variant, seed, again), workspace.finetuned(variant, seed, again)
    samples, title = workspace.samples(STAGE, variant, seed, again), run_name(variant, seed, again)
    with device_context(recipe, folder) as context:
        with context.ranks.main_process_first():
            job = FinetuneJob(recipe, workspace, variant, (seed, again), context)
            checkpoints = job.open_checkpoints(folder, resume, terminal)
        maker = made_by(checkpoints, resume)
        if kept := finished(out, maker, recipe.record, workspace, context):
            terminal.say(f"{title}: finished already with these settings, data and code; it stays as it is")
            return kept if context.ranks.is_main else {}
        if not context.ranks.is_main:
            result = job.train(checkpoints, NullLogger(), Terminal(quiet=True))
            if context.shards:
                job.score(result, Terminal(quiet=True))
                job.model.save_pretrained(None)
            return {}
        forget_samples(checkpoints, samples)
        terminal.say(f"{variant}, seed {seed}{f', again {again}' if again else ''}: {job.size}")
        with stage_run(recipe.record, workspace, STAGE, title, lineage(workspace)) as run:
            tag_training(run, recipe, recipe.variants[variant])
            result = job.train(checkpoints, run, terminal)
            scores = job.score(result, terminal)
            summary = {**job.summary(result), **maker, "run_id": run.id}
            with result_folder(out) as made:
                job.model.save_pretrained(made / MODEL_FOLDER)
                scores.to_parquet(made / SCORES_FILE, index=False)
                write_public_forms(made, job.task, scores)
                if job.task == "match":
                    keep_labels(workspace, made)
                write_training(made, job.tokenizer, result, summary)
            run.artifact(out / HISTORY_FILE)
            keep_samples(run, samples)
        checkpoints.clear()
    return summary


def describe_validation(summary: Mapping[str, Any]) -> str:
    """What a fine-tuning reached on the validation split, in a few words."""
    if "validation_pr_auc" in summary:
        return f"PR-AUC {summary['validation_pr_auc']:.3f}"
    return ", ".join(f"{name} {value:.3f}" for name, value in summary["final"].items() if value is not None)


class FinetuneJob:
    """One fine-tuning, assembled; `which` is the seed, and how many fine-tunings of it come before."""

    def __init__(
        self, recipe: Recipe, workspace: Workspace, name: str, which: tuple[int, int], context: DeviceContext
    ) -> None:
        self._name, self._which, self._context = name, which, context
        self._seed = _draws(*which)
        self._samples = workspace.samples(STAGE, name, *which)
        self._variant: Variant = named("variants", recipe.variants, name)
        self._settings = recipe.training_key(STAGE, name)
        context.ranks.per_rank(recipe.tuning_of(self._variant).batch_size, recipe.together(self._variant))
        self._start = _start_folder(recipe, workspace, self._variant, which[0])
        data = _open_data(recipe, workspace, self._variant)
        regions = regions_for(recipe, self._variant, workspace, data)
        self._data = with_regions(data, regions)
        if self._start is None:
            self._data = with_words(recipe, self._data, workspace)
            self.tokenizer = make_tokenizer(recipe, self._data, workspace)
        else:
            self.tokenizer = TextTokenizer.from_folder(self._start)
        self._recipe = recipe = with_limit(recipe, self._data, self.tokenizer, workspace)
        start = _plan_start(recipe, self._variant, self._start, self.tokenizer, self._seed, known_from(None, regions))
        self._tuning = _open_tuning(
            TuningInputs(recipe, workspace, self._variant, self._seed, self._data, self.tokenizer, start, regions)
        )
        self.model = self._tuning.planned.model

    @property
    def size(self) -> str:
        """What is trained on what, in a few words."""
        return training_size(self.model, f"{len(self._tuning.examples)} {self._tuning.examples_name}")

    @property
    def task(self) -> FinetuneTask:
        """What is learned."""
        return self._variant.task

    @property
    def decisive(self) -> dict[str, Any]:
        """What makes a continued training the same training."""
        return {
            **system_sections(self._recipe, self._variant),
            "cell": [STAGE, self._name, self._seed],
            "row": self._variant.model_dump(mode="json", include={"mdo", "modality", *BEYOND_MATCHING}),
            **self._origin,
        }

    @property
    def _origin(self) -> dict[str, Any]:
        """What is trained from, and on."""
        return {
            "start": None if self._start is None else sha256_of(self._start / WEIGHTS_FILE),
            "data": dict(self._data.hashes),
        }

    def open_checkpoints(self, folder: Path, resume: Resume, terminal: Terminal) -> Checkpoints:
        """Those of this training."""
        return open_checkpoints(folder, self._tuning.config, self.decisive, resume, terminal)

    @property
    def tuning(self) -> Tuning:
        """What is learned, with its examples."""
        return self._tuning

    def try_batch(self, size: int) -> None:
        """One full optimiser step on a batch of `size` examples."""
        examples = list(islice(cycle(self._tuning.examples), size))
        one_step(self._tuning.objective(), self._tuning.collate(examples), self._tuning.config.optim, self._context)

    def train(self, checkpoints: Checkpoints, sink: MetricSink, terminal: Terminal) -> TrainResult:
        """Train to the end, from the newest checkpoint if there is one."""
        config, tuning = self._tuning.config, self._tuning
        if self._variant.zero_shot:
            return self._as_it_is()
        trainer = Trainer(
            tuning.objective(),
            tuning.planned.weights,
            training_batches(tuning.examples, tuning.collate, config, self._recipe, self._seed, self._context),
            config,
            self._seed,
            tuning.validate,
            checkpoints,
            sink,
            self._context,
            self._samples / TRACE_FILE if self._context.ranks.is_main else None,
        )
        result = trainer.run(terminal, f"finetune {self._name}")
        tuning.finish()
        return result

    def _as_it_is(self) -> TrainResult:
        """The result of no training: what pre-training left, on the device, validated once."""
        self._tuning.planned.build().to(self._context.device).eval()
        with torch.no_grad():
            found = self._tuning.validate(0)
        rows = [
            {"step": 0, "mode": mode, **means, found.metric.name: found.value} for mode, means in found.by_mode.items()
        ]
        history = [{"kind": VALIDATED.rstrip("/"), **row} for row in rows]
        return TrainResult(0, 0, 0.0, 0, history, found.overall, 0, found.value, nullcontext)

    def score(self, result: TrainResult, terminal: Terminal) -> pd.DataFrame:
        """What the trained model says of the validation and test splits."""
        return self._tuning.score(result, terminal, f"score {self._name}")

    def summary(self, result: TrainResult) -> dict[str, Any]:
        """What summary.json says of it."""
        return {
            "row": self._name,
            **dict(zip(("seed", "again"), self._which, strict=True)),
            "settings": self._settings,
            "made_from": fingerprint_of(self._origin),
            "max_tokens": self._recipe.text.limit,
            "pretraining": self._variant.pretraining,
            "mdo": self._variant.mdo,
            "modality": self._variant.modality,
            **self._tuning.summary(result),
            **training_summary(result, self.model, self._context),
        }


def _open_data(recipe: Recipe, workspace: Workspace, variant: Variant) -> TrainingData:
    """The items, and what the variant's task learns from."""
    data = open_training_data(recipe, workspace)
    match variant.task:
        case "match":
            data = with_pairs(data, recipe.finetune.max_pairs, workspace)
            check_pairs(data, workspace)
            return data
        case "retrieval":
            check_items(data, workspace)
            return data
        case "caption":
            return caption_data(data, workspace)
        case "answer":
            return answer_data(data, workspace)
        case "statement":
            return statement_data(data, workspace)
        case "detect":
            return detect_data(data, workspace)
        case _:
            assert_never(variant.task)


def _open_tuning(given: TuningInputs) -> Tuning:
    """The fine-tuning task of the variant."""
    match given.variant.task:
        case "match":
            return MatchTuning(given)
        case "retrieval":
            return RetrievalTuning(given)
        case "caption":
            return CaptionTuning(given)
        case "answer":
            return WrittenAnswerTuning(given) if given.variant.by == "text" else answer_tuning(given)
        case "statement":
            return statement_tuning(given)
        case "detect":
            return DetectTuning(given)
        case _:
            assert_never(given.variant.task)


def _draws(seed: int, again: int) -> int:
    """The seed of all draws: the seed itself, and one of its own for each further fine-tuning."""
    return seed_of("finetuning", seed, again) % SEEDS if again else seed


def _start_folder(recipe: Recipe, workspace: Workspace, variant: Variant, seed: int) -> Path | None:
    """The pre-trained model that a variant starts from; None for a variant without pre-training."""
    if variant.pretraining is None:
        return None
    folder = workspace.pretrained(variant.pretraining, seed) / MODEL_FOLDER
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} is missing; run `mlim pretrain {variant.pretraining} --seed {seed}` first")
    summary = folder.with_name(SUMMARY_FILE)  # a stage of DVC, which knows what is stale, reads the model alone
    if summary.is_file() and read_json(summary).get("settings") != recipe.training_key("pretrain", variant.pretraining):
        raise InputError(
            f"{folder} was pre-trained with other settings than those of recipe {recipe.name}; run `mlim pretrain "
            f"{variant.pretraining} --seed {seed}` with this recipe, or choose another --work"
        )
    return folder


def _plan_start(
    recipe: Recipe, variant: Variant, start: Path | None, tokenizer: TextTokenizer, seed: int, known: Known
) -> Planned[System]:
    if start is None:
        return plan_system(recipe.system_of(variant), recipe.network, tokenizer, seed, known)
    system = load_system(start)
    inputs = system.model.inputs
    longest = inputs.text_positions - TEXT_SPECIALS
    if inputs.image_size != recipe.image.size or longest < recipe.text.limit:
        raise InputError(
            f"{start} was pre-trained for image.size={inputs.image_size} and text.max_tokens={longest}, but the "
            f"recipe says {recipe.image.size} and {recipe.text.limit}; run `mlim pretrain` again with this recipe"
        )
    return system
