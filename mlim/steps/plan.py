"""The pipeline as data: which stages there are, in which order, and how each is called.

One definition for three users: the flows run it, `mlim pipeline` writes dvc.yaml from it, the command line offers the
same words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlim.config import nearest
from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.recipe.image_sides import ANNOTATED, RegionSide
from mlim.recipe.systems import region_side
from mlim.recipe.tasks import PretrainTask
from mlim.steps.pairless import other_tasks_alone
from mlim.versions import DVC_BUILD, DVC_CATALOG, DVC_PARAMETERS, DVC_PIPELINE, DVC_PIPELINES
from mlim.workspace import Workspace

PREPARATION = ("ingest", "validate", "pairs")
ANNOTATE, REGIONS, MATCH = "annotate", "regions", "match"
READ_THE_CATALOG = frozenset((*PREPARATION, ANNOTATE, REGIONS, MATCH))
DETECTORS = "pretrain-detector"  # the group of pre-trainings that regions are made with
MATCHING = ("stack", "evaluate", "probe", "register", MATCH)  # about the main variant, which matches


@dataclass(frozen=True)
class Stage:
    """One stage: the command (`mlim COMMAND [NAME [--seed SEED]] [OPTIONS]`) and its group in dvc.yaml.

    One with a name and no seed is alone in its group.
    """

    command: str
    name: str | None = None
    seed: int | None = None
    group: str | None = None
    options: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """What follows `mlim` on the command line."""
        name = [] if self.name is None else [self.name]
        seed = [] if self.seed is None else ["--seed", str(self.seed)]
        return [self.command, *name, *seed, *self.options]

    @property
    def kind(self) -> str:
        """What dvc.yaml defines at once: the group, else the command."""
        return self.group or self.command

    @property
    def target(self) -> str:
        """The stage's name in dvc.yaml: `ingest`, `pretrain@recon-mlm-mam-0`."""
        return self.kind if self.seed is None else f"{self.kind}@{self.name}-{self.seed}"

    @property
    def trains(self) -> bool:
        """Whether the stage needs the accelerator."""
        return self.command in {"pretrain", "finetune"}


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of DVC: the folder of its dvc.yaml and params.yaml, its catalog, and whether that has pairs.

    Its paths and commands count from the project's folder. `recipe` is the one that its params.yaml is written from;
    None: params.yaml is the recipe, and people edit it.
    """

    folder: Path
    catalog: Path
    matches: bool = True
    recipe: str | None = None

    @property
    def file(self) -> Path:
        """Its dvc.yaml."""
        return self.folder / DVC_PIPELINE

    @property
    def parameters(self) -> Path:
        """Its params.yaml, a complete recipe."""
        return self.folder / DVC_PARAMETERS

    def work(self, recipe: Recipe) -> Workspace:
        """Where the results of its recipe lie."""
        return Workspace(DVC_BUILD / recipe.name)

    def target(self, stage: Stage) -> str:
        """What DVC calls a stage in the project's folder."""
        return stage.target if self.folder == Path() else f"{self.file.as_posix()}:{stage.target}"


MAIN_PIPELINE = Pipeline(Path(), DVC_CATALOG)
SYSTEMS_PIPELINE = Pipeline(
    Path(DVC_PIPELINES, "systems"), Path("scenes", "catalog.yaml"), matches=False, recipe="systems-demo"
)
PIPELINES = (MAIN_PIPELINE, SYSTEMS_PIPELINE)


def preparation(recipe: Recipe) -> list[Stage]:
    """From the raw catalog to pairs, and to annotations where the recipe is about them, or about captions if any."""
    annotate = [Stage(ANNOTATE, options=annotate_options(recipe))] if recipe.annotations else []
    return [Stage(command) for command in PREPARATION] + annotate


def annotate_options(recipe: Recipe) -> tuple[str, ...]:
    """A catalog may have no annotations where no training needs them."""
    return () if needs_annotations(recipe) else ("--if-any",)


def needs_annotations(recipe: Recipe) -> bool:
    """Whether some training of the recipe learns from annotations, and cannot do without."""
    sections = (recipe.tasks.section(task) for task in recipe.other_tasks)
    asked = {section.table for section in sections if section is not None and section.table is not None}
    taught = {table for task in _pretrained(recipe) for table in task.tables}
    return bool((asked | taught) - {"captions"}) or any(side.source == ANNOTATED for side in regions_read(recipe))


def _pretrained(recipe: Recipe) -> list[PretrainTask]:
    """The tasks of every pre-training that a variant, or the regions that it reads, start from."""
    used = {variant.pretraining for variant in recipe.variants.values()}
    used |= {side.detector for side in regions_read(recipe)}
    return [task for name in used if name is not None for task in recipe.pretrainings[name].all_tasks]


def regions_read(recipe: Recipe) -> list[RegionSide]:
    """The stored regions that some variant's system reads, one side for each source."""
    systems = [recipe.system_of(variant) for variant in recipe.variants.values()]
    sides = [side for side in map(region_side, systems) if side is not None and side.is_stored]
    return list({side.source: side for side in sides}.values())


def regions(recipe: Recipe) -> list[Stage]:
    """The detectors that regions are made with, and the regions."""
    sides = regions_read(recipe)
    detectors = [side.detector for side in sides if side.detector is not None]
    return [
        *(_pretraining(recipe, name, recipe.seeds[0]) for name in detectors),
        *(Stage(REGIONS, side.source, group=f"{REGIONS}-{side.source.replace(':', '-')}") for side in sides),
    ]


def _pretraining(recipe: Recipe, name: str, seed: int) -> Stage:
    """DVC needs to know which ones come before the regions that others read."""
    detects = any(side.detector == name for side in regions_read(recipe))
    return Stage("pretrain", name, seed, DETECTORS if detects else None)


def main_pretraining(recipe: Recipe) -> list[Stage]:
    """Pre-training of the main model (none when its variant starts from scratch)."""
    name = recipe.main_variant.pretraining
    return [] if name is None else [_pretraining(recipe, name, recipe.seeds[0])]


def before_finetuning(recipe: Recipe) -> list[Stage]:
    """The regions that systems read, with their detectors, and the main model's pre-training; each once."""
    return list(dict.fromkeys((*regions(recipe), *main_pretraining(recipe))))


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
        *(_pretraining(recipe, name, seed) for seed in recipe.seeds for name in names),
        *(_finetuning(recipe, variant, seed) for seed in recipe.seeds for variant in recipe.variants),
    ]


def sweep(recipe: Recipe, matches: bool = True) -> list[Stage]:
    """All runs, those of the main model first, the tables over all of them, and the probes.

    Without pairs there is no main model: the runs of all other tasks, with the regions that they read, and their
    tables.
    """
    if not matches:
        others = other_tasks_alone(recipe)
        return [*dict.fromkeys((*regions(others), *trainings(others))), Stage("ablate")]
    of_main = (*before_finetuning(recipe), *main_finetuning(recipe))
    return [*dict.fromkeys((*of_main, *trainings(recipe))), Stage("ablate"), Stage("probe")]


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
    yield from sweep(recipe, matches)
    yield from conclusion(matches)


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
