"""`mlim pretrain`: MLM, RECON and ITM on the items of the train split (paper section 3)."""

from itertools import cycle, islice
from typing import Any, Final

from mlim.console import Terminal
from mlim.data.collate import ItemCollator
from mlim.errors import InputError
from mlim.models.hub import build_mlim
from mlim.objectives import PretrainObjective
from mlim.recipe import Pretraining, Recipe
from mlim.steps.trained import (
    HISTORY_FILE,
    MODEL_FOLDER,
    TRACE_FILE,
    TRAIN,
    VALIDATION,
    Resume,
    forget_watched,
    keep_watched,
    make_tokenizer,
    model_sections,
    named,
    open_checkpoints,
    open_training_data,
    prepare_collating,
    result_folder,
    save_picture,
    trained_model,
    training_batches,
    training_place,
    training_size,
    training_summary,
    write_training,
)
from mlim.tracking import stage_run
from mlim.training.checkpoint import Checkpoints
from mlim.training.contracts import MetricSink, TrainResult, Unheard, Validation
from mlim.training.device import Place, choose_device
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses, choose_items
from mlim.training.loop import Trainer, one_step
from mlim.training.memory import find_batch_size, limited_to_free_memory
from mlim.training.ranks import Ranks
from mlim.training.strip import ReconstructionStrip
from mlim.versions import lineage
from mlim.workspace import Workspace, cell

STAGE: Final = "pretrain"
STRIPS = "reconstructions"
STRIP_ITEMS = 8


def pretrain(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, name: str, seed: int, resume: Resume = "auto"
) -> dict[str, Any]:
    """Pre-train as `recipe.pretrainings[name]` says and write workspace.pretrained(name, seed).

    `resume="auto"` continues an interrupted training of the same recipe and data; `never` starts anew. `InputError` for
    missing inputs, `Interrupted` when stopped by a signal, `MlimError` when training fails. Of several processes that
    train together (`torchrun`) the first one writes and returns the summary; the others return nothing.
    """
    pretraining: Pretraining = named("pretrainings", recipe.pretrainings, name)
    folder, out = workspace.checkpoints(STAGE, name, seed), workspace.pretrained(name, seed)
    with training_place(recipe, folder) as place:
        with place.ranks.one_first():
            job = _Job(recipe, workspace, name, seed, pretraining, place)
            checkpoints = open_checkpoints(folder, recipe.pretrain, job.decisive, resume, terminal)
        if not place.ranks.leads:
            job.train(checkpoints, Unheard(), Terminal(quiet=True))
            return {}
        forget_watched(checkpoints, workspace.watched(STAGE, name, seed))
        terminal.say(f"{name}, seed {seed}: {job.size}")
        with stage_run(recipe, workspace, STAGE, cell(name, seed), lineage(workspace)) as run:
            result = job.train(checkpoints, run, terminal)
            summary = {**job.summary(result), "run_id": run.id}
            with result_folder(out) as made:
                trained_model(job.model, result, place).save_pretrained(made / MODEL_FOLDER)
                write_training(made, job.tokenizer, result, summary)
            run.artifact(out / HISTORY_FILE)
            keep_watched(run, workspace.watched(STAGE, name, seed))
        checkpoints.clear()
    return summary


def largest_batch(recipe: Recipe, workspace: Workspace, terminal: Terminal, name: str, seed: int) -> int:
    """The largest power of two for `pretrain.batch_size` that fits into memory, by real steps; 0 when not even 1 does.

    Looks no further than twice the items of the train split. Nothing is written.
    """
    pretraining: Pretraining = named("pretrainings", recipe.pretrainings, name)
    place = Place(choose_device(recipe.device), Ranks(), recipe.compute)
    job = _Job(recipe, workspace, name, seed, pretraining, place)
    terminal.say(f"{name}: {job.size}; one step each with 1, 2, 4 ... items")
    with limited_to_free_memory(place.device):
        return find_batch_size(job.try_batch, 2 * job.items)


class _Job:
    """One pre-training, assembled."""

    def __init__(
        self, recipe: Recipe, workspace: Workspace, name: str, seed: int, pretraining: Pretraining, place: Place
    ) -> None:
        self._recipe, self._name, self._seed, self._pretraining = recipe, name, seed, pretraining
        self._place, self._watch = place, workspace.watched(STAGE, name, seed)
        self._data = open_training_data(recipe, workspace)
        if not self._data.items.get(VALIDATION):
            raise InputError(f"{workspace.pairs}: the validation split is empty; run `mlim pairs` with more items")
        self.tokenizer = make_tokenizer(recipe, self._data)
        self.model = build_mlim(recipe, self.tokenizer, seed)
        self._collate = ItemCollator(*prepare_collating(recipe, self._data, self.tokenizer, workspace))

    @property
    def size(self) -> str:
        """What is trained on what, in a few words."""
        return training_size(self.model, f"{len(self._data.items[TRAIN])} items")

    @property
    def items(self) -> int:
        """How many there are to train on."""
        return len(self._data.items[TRAIN])

    def try_batch(self, size: int) -> None:
        """One full optimiser step on a batch of `size` items."""
        objective = PretrainObjective(self.model, self._recipe, self._pretraining, self._seed)
        ids = list(islice(cycle(self._data.items[TRAIN]), size))
        one_step(objective, self._collate(ids), self._recipe.pretrain.optim, self._place)

    @property
    def decisive(self) -> dict[str, Any]:
        """What makes a continued training the same training."""
        return {
            **model_sections(self._recipe),
            "cell": [STAGE, self._name, self._seed],
            "pretraining": self._pretraining.model_dump(mode="json"),
            "data": dict(self._data.hashes),
        }

    def train(self, checkpoints: Checkpoints, sink: MetricSink, terminal: Terminal) -> TrainResult:
        recipe, config = self._recipe, self._recipe.pretrain
        held_out_ids = choose_items(self._data.items[VALIDATION], config.validation_items)
        held_out = HeldOutLosses(
            PretrainObjective(self.model, recipe, self._pretraining, VALIDATION_SEED),
            self._collate,
            held_out_ids,
            config.batch_size,
            self._place.device,
        )
        strip = ReconstructionStrip(
            self.model,
            self._collate,
            held_out_ids[:STRIP_ITEMS],
            recipe.probe.reconstruction_masking,
            self._place.device,
        )

        def validate(step: int) -> Validation:
            if "recon" in self._pretraining.losses:
                picture = strip.draw()  # on every rank: they may share the weights
                if self._place.ranks.leads:
                    save_picture(picture, self._watch / STRIPS / f"step-{step:08d}.png")
            return held_out(step)

        trainer = Trainer(
            PretrainObjective(self.model, recipe, self._pretraining, self._seed),
            training_batches(self._data.items[TRAIN], self._collate, config, recipe, self._seed, self._place),
            config,
            self._seed,
            validate,
            checkpoints,
            sink,
            self._place,
            self._watch / TRACE_FILE if self._place.ranks.leads else None,
        )
        return trainer.run(terminal, f"pretrain {self._name}")

    def summary(self, result: TrainResult) -> dict[str, Any]:
        final = result.validation
        return {
            "name": self._name,
            "seed": self._seed,
            "settings": self._recipe.training_key(STAGE, self._name),
            "losses": list(self._pretraining.losses),
            "masking": self._pretraining.masking,
            "samples_seen": result.samples,
            "final": {loss: final[loss] for loss in self._pretraining.losses if loss in final},
            "final_by_mode": {key: value for key, value in final.items() if "/" in key},
            **training_summary(result, self.model, self._place),
        }
