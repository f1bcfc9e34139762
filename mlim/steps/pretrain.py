"""`mlim pretrain`: MLM, RECON and ITM on the items of the train split (paper section 3)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Final

from torch import Tensor

from mlim.console import Terminal
from mlim.data.batches import ItemBatch
from mlim.data.collate import ItemCollator, LookCollator
from mlim.data.images import as_floats, to_pixels
from mlim.data.loader import BatchLoader
from mlim.data.looks import Rotation
from mlim.errors import InputError
from mlim.models.systems import plan_system
from mlim.recipe import Pretraining, Recipe
from mlim.steps.annotated import annotations_for, hashes_of, known_from
from mlim.steps.looks import visible_pictures
from mlim.steps.tags import tag_training
from mlim.steps.trained import (
    HISTORY_FILE,
    MODEL_FOLDER,
    RECONSTRUCTIONS,
    TRACE_FILE,
    TRAIN,
    VALIDATION,
    Resume,
    device_context,
    finished,
    forget_samples,
    keep_samples,
    made_by,
    make_tokenizer,
    named,
    open_checkpoints,
    open_training_data,
    prepare_collating,
    regions_for,
    result_folder,
    save_picture,
    system_sections,
    training_batches,
    training_size,
    training_summary,
    with_limit,
    with_regions,
    with_words,
    write_training,
)
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.baselines import CHANNELS, TrainSample
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.tasks.pretrain.samples import Sampler
from mlim.tracking import stage_run
from mlim.training.baselines import Losses, baseline_losses, not_beaten
from mlim.training.checkpoint import Checkpoints
from mlim.training.device import DeviceContext, choose_device
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses, choose_items
from mlim.training.loop import Trainer, one_step
from mlim.training.memory import find_batch_size, limited_to_free_memory
from mlim.training.protocols import MetricSink, NullLogger, TrainResult, Validation
from mlim.training.ranks import Ranks
from mlim.versions import lineage
from mlim.workspace import Workspace, run_name

STAGE: Final = "pretrain"
SAMPLED_ITEMS = 8
MOST_NUMBERS: Final = 2**27  # of the pictures that baselines learn from, together: half a gigabyte


def pretrain(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, name: str, seed: int, resume: Resume = "auto"
) -> dict[str, Any]:
    """Pre-train as `recipe.pretrainings[name]` says and write workspace.pretrained(name, seed).

    `resume="auto"` continues an interrupted training of the same recipe and data; `never` starts from the beginning;
    `keep` also keeps one that was finished with `keep` by the same recipe, data and code, and gives its summary.
    `InputError` for missing inputs, `Interrupted` when stopped by a signal, `MlimError` when training fails. Of several
    processes that train together (`torchrun`) the first one writes and returns the summary; the others return nothing.
    """
    pretraining: Pretraining = named("pretrainings", recipe.pretrainings, name)
    folder, out = workspace.checkpoints(STAGE, name, seed), workspace.pretrained(name, seed)
    with device_context(recipe, folder) as context:
        with context.ranks.main_process_first():
            job = PretrainJob(recipe, workspace, name, seed, pretraining, context)
            checkpoints = open_checkpoints(folder, recipe.pretrain, job.decisive, resume, terminal)
        maker = made_by(checkpoints, resume)
        if kept := finished(out, maker, recipe.record, workspace, context):
            terminal.say(f"{name}, seed {seed}: finished already with these settings, data and code; it stays as it is")
            return kept if context.ranks.is_main else {}
        if not context.ranks.is_main:
            job.train(checkpoints, NullLogger(), Terminal(quiet=True))
            if context.shards:
                job.model.save_pretrained(None)
            return {}
        forget_samples(checkpoints, workspace.samples(STAGE, name, seed))
        terminal.say(f"{name}, seed {seed}: {job.size}")
        if job.hidden:
            terminal.say(
                f"{job.hidden} further pictures are not shown: they are, byte for byte, those of held-out items"
            )
        with stage_run(recipe.record, workspace, STAGE, run_name(name, seed), lineage(workspace)) as run:
            tag_training(run, recipe, pretraining)
            result = job.train(checkpoints, run, terminal)
            summary = {**job.summary(result), **maker, "run_id": run.id}
            with result_folder(out) as made:
                job.model.save_pretrained(made / MODEL_FOLDER)
                write_training(made, job.tokenizer, result, summary)
            run.artifact(out / HISTORY_FILE)
            keep_samples(run, workspace.samples(STAGE, name, seed))
        checkpoints.clear()
    _warn_of_useless(summary, terminal)
    return summary


def _warn_of_useless(summary: Mapping[str, Any], terminal: Terminal) -> None:
    """Warn where a simple baseline restores what is hidden as well as the model does."""
    if summary["not_beaten"]:
        terminal.warn(
            f"{summary['name']}, seed {summary['seed']}: on held-out items {'; '.join(summary['not_beaten'])}; train "
            "for longer (pretrain.steps), or look at docs/training.md"
        )


def largest_batch(recipe: Recipe, workspace: Workspace, terminal: Terminal, name: str, seed: int) -> int:
    """The largest power of two for `pretrain.batch_size` that fits into memory, by real steps; 0 when not even 1 does.

    Looks no further than twice the items of the train split. Nothing is written.
    """
    pretraining: Pretraining = named("pretrainings", recipe.pretrainings, name)
    context = DeviceContext(choose_device(recipe.device), Ranks(), recipe.compute)
    job = PretrainJob(recipe, workspace, name, seed, pretraining, context)
    terminal.say(f"{name}: {job.size}; one step each with 1, 2, 4 ... items")
    job.planned.build()
    with limited_to_free_memory(context.device):
        return find_batch_size(job.try_batch, 2 * job.items)


class PretrainJob:
    """One pre-training, assembled."""

    def __init__(
        self,
        recipe: Recipe,
        workspace: Workspace,
        name: str,
        seed: int,
        pretraining: Pretraining,
        context: DeviceContext,
    ) -> None:
        self._name, self._seed, self._pretraining = name, seed, pretraining
        self._settings = recipe.training_key(STAGE, name)
        self._context, self._samples = context, workspace.samples(STAGE, name, seed)
        self._data = with_words(recipe, open_training_data(recipe, workspace), workspace)
        if not self._data.items.get(VALIDATION):
            raise InputError(f"{workspace.pairs}: the validation split is empty; run `mlim pairs` with more items")
        self.tokenizer = make_tokenizer(recipe, self._data, workspace)
        context.ranks.per_rank(recipe.pretrain.batch_size, recipe.together(pretraining))
        self._recipe = recipe = with_limit(recipe, self._data, self.tokenizer, workspace)
        regions = regions_for(recipe, pretraining, workspace, self._data)
        self._beside = annotations_for(pretraining, workspace, regions)
        self._hashes = {**with_regions(self._data, regions).hashes, **hashes_of(self._beside, workspace)}
        system, known = recipe.system_of(pretraining), known_from(self._beside, regions)
        self.planned = plan_system(system, recipe.network, self.tokenizer, seed, known)
        self.model = self.planned.model
        self._collating = prepare_collating(recipe, self._data, self.tokenizer, workspace, regions)
        self._collate = ItemCollator(*self._collating, self._beside)
        rotates = self._data.store.has_further and regions is None  # stored are regions of first pictures alone
        self._visible = visible_pictures(self._data.store, workspace) if rotates else None

    @property
    def size(self) -> str:
        """What is trained on what, in a few words."""
        return training_size(self.model, f"{len(self._data.items[TRAIN])} items")

    @property
    def items(self) -> int:
        """How many there are to train on."""
        return len(self._data.items[TRAIN])

    @property
    def hidden(self) -> int:
        """How many pictures of the items are not shown, because they are those of held-out items."""
        return 0 if self._visible is None else self._visible.hidden

    def _batches(self) -> BatchLoader[Any, ItemBatch]:
        """What is trained on: items, or other pictures of them in every epoch where they have several."""
        items, settings = self._data.items[TRAIN], (self._recipe.pretrain, self._recipe, self._seed, self._context)
        if self._visible is None:
            return training_batches(items, self._collate, *settings)
        looks = Rotation(items, self._visible, self._seed)
        return training_batches(looks, LookCollator(*self._collating, self._beside), *settings)

    def try_batch(self, size: int) -> None:
        """One full optimiser step on a batch of `size` items."""
        objective = self._objective(self._seed)
        ids = list(islice(cycle(self._data.items[TRAIN]), size))
        one_step(objective, self._collate(ids), self._recipe.pretrain.optim, self._context)

    def validate(self, step: int) -> Validation:
        """The losses on held-out items; the model must be in evaluation mode."""
        return self._held_out()(step)

    @property
    def decisive(self) -> dict[str, Any]:
        """What makes a continued training the same training."""
        return {
            **system_sections(self._recipe, self._pretraining),
            "cell": [STAGE, self._name, self._seed],
            "pretraining": self._pretraining.deciding(),
            "data": self._hashes,
        }

    def train(self, checkpoints: Checkpoints, sink: MetricSink, terminal: Terminal) -> TrainResult:
        """Train to the end, from the newest checkpoint if there is one."""
        config, objective = self._recipe.pretrain, self._objective(self._seed)
        held_out, samplers = self._held_out(), self._samplers(objective)

        def validate(step: int) -> Validation:
            for sampler in samplers:
                picture = sampler.draw()  # on every rank: they may share the weights
                if self._context.ranks.is_main:
                    save_picture(picture, self._samples / RECONSTRUCTIONS / f"step-{step:08d}.png")
            return held_out(step)

        trainer = Trainer(
            objective,
            self.planned.weights,
            self._batches(),
            config,
            self._seed,
            validate,
            checkpoints,
            sink,
            self._context,
            self._samples / TRACE_FILE if self._context.ranks.is_main else None,
        )
        return trainer.run(terminal, f"pretrain {self._name}")

    @property
    def _held_out_ids(self) -> list[str]:
        return choose_items(self._data.items[VALIDATION], self._recipe.pretrain.validation_items)

    def _objective(self, seed: int) -> PretrainObjective:
        recipe = self._recipe
        return pretrain_objective(self.model, recipe.pretrain, self._pretraining, recipe.text.limit, seed)

    def _samplers(self, objective: PretrainObjective) -> list[Sampler]:
        """What the tasks draw while the training runs."""
        ids, share = self._held_out_ids[:SAMPLED_ITEMS], self._recipe.probe.reconstruction_masking
        found = (task.sampler(self._collate, ids, share, self._context.device) for task in objective.tasks)
        return [sampler for sampler in found if sampler is not None]

    def _held_out(self) -> HeldOutLosses:
        return HeldOutLosses(
            self._objective(VALIDATION_SEED),
            self._collate,
            self._held_out_ids,
            self._recipe.pretrain.batch_size,
            self._context.device,
        )

    def _baselines(self) -> dict[str, Losses]:
        """What simple baselines reach on held-out items with the same masks, by task, baseline and masking mode."""
        sample = TrainSample(
            self._texts, self._pictures, self.model.inputs.vocabulary_size, self._recipe.model.hidden_size
        )
        found = {task.name: task.baselines(sample) for task in self._objective(VALIDATION_SEED).tasks}
        return baseline_losses(self._held_out(), {name: each for name, each in found.items() if each is not None})

    def _texts(self, most: int) -> Iterator[Sequence[int]]:
        _, tokenizer, longest, tokens = self._collating
        return ([tokenizer.cls, *tokens.ids(item, longest)] for item in choose_items(self._data.items[TRAIN], most))

    def _pictures(self, most: int) -> Tensor:
        source, numbers = self._collating[0], CHANNELS * self._recipe.image.size**2
        chosen = choose_items(self._data.items[TRAIN], min(most, MOST_NUMBERS // numbers))
        return as_floats(to_pixels(map(source.image, chosen), len(chosen)))

    def summary(self, result: TrainResult) -> dict[str, Any]:
        """What summary.json says of it."""
        final, baselines = result.validation, self._baselines()
        return {
            "name": self._name,
            "seed": self._seed,
            "settings": self._settings,
            "max_tokens": self._recipe.text.limit,
            "losses": list(self._pretraining.loss_names),
            "masking": self._pretraining.masking,
            "samples_seen": result.samples,
            "final": {loss: final[loss] for loss in self._pretraining.loss_names if loss in final},
            "final_by_mode": {key: value for key, value in final.items() if "/" in key},
            "references": baselines,
            "not_beaten": not_beaten(final, baselines),
            **training_summary(result, self.model, self._context),
        }
