"""The pipeline as data: which stages there are, in which order, and how each is called.

One definition for three users: the flows run it, `mlim pipeline` writes dvc.yaml from it, the command line offers the
same words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from mlim.config import nearest
from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.steps.pairless import other_tasks_alone
from mlim.workspace import Workspace

PREPARATION = ("ingest", "validate", "pairs")
ANNOTATE, MATCH = "annotate", "match"
READ_THE_CATALOG = frozenset((*PREPARATION, ANNOTATE, MATCH))
MATCHING = ("stack", "evaluate", "probe", "register", MATCH)  # about the main variant, which matches
INDEPENDENT = (("ablate", "probe"),)  # neighbours, other than trainings of one kind


@dataclass(frozen=True)
class Stage:
    """One stage: the command (`mlim COMMAND [NAME --seed SEED]`) and the group it belongs to in dvc.yaml."""

    command: str
    name: str | None = None
    seed: int | None = None
    group: str | None = None

    @property
    def arguments(self) -> list[str]:
        """What follows `mlim` on the command line."""
        run = [] if self.name is None else [self.name, "--seed", str(self.seed)]
        return [self.command, *run]

    @property
    def kind(self) -> str:
        """What dvc.yaml defines at once: the group, else the command."""
        return self.group or self.command

    @property
    def target(self) -> str:
        """The stage's name in dvc.yaml: `ingest`, `pretrain@recon-mlm-mam-0`."""
        return self.kind if self.name is None else f"{self.kind}@{self.name}-{self.seed}"

    @property
    def trains(self) -> bool:
        """Whether the stage needs the accelerator."""
        return self.command in {"pretrain", "finetune"}


def preparation(recipe: Recipe) -> list[Stage]:
    """From the raw catalog to pairs, and to annotations where a task learns from them."""
    used = {variant.pretraining for variant in recipe.variants.values()}
    sections = [recipe.tasks.section(task) for task in recipe.other_tasks]
    annotated = any(section is not None and section.reads_annotations for section in sections) or any(
        task.reads_objects for name in used if name for task in recipe.pretrainings[name].all_tasks
    )
    return [Stage(command) for command in (*PREPARATION, *([ANNOTATE] if annotated else []))]


def main_pretraining(recipe: Recipe) -> list[Stage]:
    """Pre-training of the main model (none when its variant starts from scratch)."""
    name = recipe.main_variant.pretraining
    return [] if name is None else [Stage("pretrain", name, recipe.seeds[0])]


def main_finetuning(recipe: Recipe) -> list[Stage]:
    """Fine-tuning of the main model, its stack with simple systems, and their evaluation."""
    return [_finetuning(recipe, recipe.main, recipe.seeds[0]), Stage("stack"), Stage("evaluate")]


def _finetuning(recipe: Recipe, variant: str, seed: int) -> Stage:
    """DVC needs to know what a variant starts from: its namesake, the main pre-training, another one, or nothing."""
    start, main = recipe.variants[variant].pretraining, recipe.variants.get(recipe.main)
    of_main = {} if main is None else {main.pretraining: "finetune-variant"}
    groups = {**of_main, None: "finetune-scratch", variant: "finetune"}
    return Stage("finetune", variant, seed, groups.get(start, f"finetune-from-{start}"))


def trainings(recipe: Recipe) -> list[Stage]:
    """Every run of the experiment: the pre-trainings that some variant uses, then all variants, for every seed."""
    used = {variant.pretraining for variant in recipe.variants.values()}
    names = [name for name in recipe.pretrainings if name in used]
    return [
        *(Stage("pretrain", name, seed) for seed in recipe.seeds for name in names),
        *(_finetuning(recipe, variant, seed) for seed in recipe.seeds for variant in recipe.variants),
    ]


def sweep(recipe: Recipe, matches: bool = True) -> list[Stage]:
    """The runs beyond the main model's, the tables over all of them, and the probes.

    Without pairs there is no main model: the runs of all other tasks, and their tables.
    """
    if not matches:
        return [*trainings(other_tasks_alone(recipe)), Stage("ablate")]
    done = {*main_pretraining(recipe), *main_finetuning(recipe)}
    return [*(stage for stage in trainings(recipe) if stage not in done), Stage("ablate"), Stage("probe")]


def conclusion(matches: bool = True) -> list[Stage]:
    """The registry for machines, the page for people, which says what registration found, and the catalog's matches.

    Without pairs the page alone.
    """
    return [Stage("register"), Stage("report"), Stage(MATCH)] if matches else [Stage("report")]


def own_options(command: str, workspace: Workspace) -> list[str]:
    """What the pipeline tells a command besides recipe, work folder and catalog: `match` uses the run's own model."""
    model, out = workspace.root.as_posix(), workspace.matches.as_posix()
    return ["--model", model, "--out", out] if command == MATCH else []


def everything(recipe: Recipe, matches: bool = True) -> Iterator[Stage]:
    """All stages in the order in which the pipeline runs them; `matches`: whether the catalog has pairs.

    `InputError` where it has none and all variants of the recipe match.
    """
    yield from preparation(recipe if matches else other_tasks_alone(recipe))
    if matches:
        yield from main_pretraining(recipe)
        yield from main_finetuning(recipe)
    yield from sweep(recipe, matches)
    yield from conclusion(matches)


def waves(stages: Iterable[Stage]) -> Iterator[list[Stage]]:
    """Neighbours that may run side by side, because they need nothing of each other."""
    for _, wave in groupby(stages, _independent):
        yield list(wave)


def _independent(stage: Stage) -> tuple[str, ...]:
    """The commands whose stages do not need this one's results, its own among them."""
    return next((commands for commands in INDEPENDENT if stage.command in commands), (stage.command,))


def stages_from(recipe: Recipe, start: str, matches: bool = True) -> frozenset[Stage]:
    """The stages that a run starting at command `start` still has to do; `matches`: whether the catalog has pairs."""
    ordered = list(everything(recipe, matches))
    commands = [stage.command for stage in ordered]
    if start in MATCHING and start not in commands:
        raise InputError(
            f"--from {start}: is about pairs, and the catalog has none (`pairs: none`); start at one of "
            f"{', '.join(dict.fromkeys(commands))}"
        )
    if start not in commands:
        raise InputError(f"--from {start}: no such stage{nearest(start, list(dict.fromkeys(commands)))}")
    return frozenset(ordered[commands.index(start) :])
