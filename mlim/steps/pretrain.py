"""`mlim pretrain`: MLM, RECON and ITM on the items of the train split (paper section 3)."""

from typing import Any

from mlim.console import Terminal
from mlim.data.collate import ItemCollator
from mlim.data.loader import BatchLoader
from mlim.errors import InputError
from mlim.models.hub import build_mlim
from mlim.objectives import PretrainObjective
from mlim.recipe import Pretraining, Recipe
from mlim.steps.trained import (
    HISTORY_FILE,
    MODEL_FOLDER,
    TRAIN,
    VALIDATION,
    Resume,
    make_tokenizer,
    model_sections,
    named,
    open_checkpoints,
    open_training_data,
    prepare_collating,
    result_folder,
    training_size,
    training_summary,
    write_training,
)
from mlim.tracking import stage_run
from mlim.training.checkpoint import Checkpoints, only_trainer
from mlim.training.device import choose_device
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses, choose_items
from mlim.training.loop import MetricSink, Trainer, TrainResult
from mlim.versions import lineage
from mlim.workspace import Workspace, cell

STAGE = "pretrain"


def pretrain(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, name: str, seed: int, resume: Resume = "auto"
) -> dict[str, Any]:
    """Pre-train as `recipe.pretrainings[name]` says and write workspace.pretrained(name, seed).

    `resume="auto"` continues an interrupted training of the same recipe and data; `never` starts anew. `InputError` for
    missing inputs, `Interrupted` when stopped by a signal, `MlimError` when training fails.
    """
    pretraining: Pretraining = named("pretrainings", recipe.pretrainings, name)
    job = _Job(recipe, workspace, name, seed, pretraining)
    place, out = workspace.checkpoints(STAGE, name, seed), workspace.pretrained(name, seed)
    with only_trainer(place):
        terminal.say(f"{name}, seed {seed}: {job.size}")
        checkpoints = open_checkpoints(place, recipe.pretrain, job.decisive, resume, terminal)
        with stage_run(recipe, workspace, STAGE, cell(name, seed), lineage(workspace)) as run:
            result = job.train(checkpoints, run, terminal)
            summary = {**job.summary(result), "run_id": run.id}
            with result_folder(out) as folder:
                job.model.save_pretrained(folder / MODEL_FOLDER)
                write_training(folder, job.tokenizer, result, summary)
            run.artifact(out / HISTORY_FILE)
        checkpoints.clear()
    return summary


class _Job:
    """One pre-training, assembled."""

    def __init__(self, recipe: Recipe, workspace: Workspace, name: str, seed: int, pretraining: Pretraining) -> None:
        self._recipe, self._name, self._seed, self._pretraining = recipe, name, seed, pretraining
        self._device = choose_device(recipe.device)
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
        held_out = HeldOutLosses(
            PretrainObjective(self.model, recipe, self._pretraining, VALIDATION_SEED),
            self._collate,
            choose_items(self._data.items[VALIDATION], config.validation_items),
            config.batch_size,
            self._device,
        )
        trainer = Trainer(
            PretrainObjective(self.model, recipe, self._pretraining, self._seed),
            BatchLoader(
                self._data.items[TRAIN],
                config.batch_size,
                self._seed,
                self._collate,
                workers=recipe.loader.workers,
                batches_ahead=recipe.loader.batches_ahead,
            ),
            config,
            self._seed,
            held_out,
            checkpoints,
            sink,
            self._device,
        )
        return trainer.run(terminal, f"pretrain {self._name}")

    def summary(self, result: TrainResult) -> dict[str, Any]:
        final = result.validation
        return {
            "name": self._name,
            "seed": self._seed,
            "losses": list(self._pretraining.losses),
            "masking": self._pretraining.masking,
            "samples_seen": result.samples,
            "final": {loss: final[loss] for loss in self._pretraining.losses if loss in final},
            "final_by_mode": {key: value for key, value in final.items() if "/" in key},
            **training_summary(result, self.model),
        }
