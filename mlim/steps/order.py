"""Which stages need which: whoever writes what another one reads comes first, and all others may run side by side."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlim.recipe import Recipe
from mlim.steps.plan import Pipeline, Stage
from mlim.steps.stages import MAIN_SEED, NAME, SEED, define_stages
from mlim.workspace import Workspace

Needs = Mapping[Stage, frozenset[Stage]]


def needs(recipe: Recipe, workspace: Workspace, pipeline: Pipeline, stages: Sequence[Stage]) -> Needs:
    """For each of these stages, which are in the order of the pipeline, those before it whose results it reads."""
    defined = define_stages(recipe, workspace, pipeline)
    reads = {stage: [*_paths(defined[stage.kind].reads, stage, recipe)] for stage in stages}
    writes = {stage: [*_paths(defined[stage.kind].writes, stage, recipe)] for stage in stages}
    return {
        stage: frozenset(earlier for earlier in stages[:number] if _meet(writes[earlier], reads[stage]))
        for number, stage in enumerate(stages)
    }


def companions(needed: Needs) -> Mapping[Stage, frozenset[Stage]]:
    """Beside which others each stage may run: those that do not need it and that it does not need, over any others."""
    before: dict[Stage, frozenset[Stage]] = {}
    for stage, first in needed.items():
        before[stage] = first.union(*(before[each] for each in first))
    return {
        stage: frozenset(
            each for each in needed if each != stage and stage not in before[each] and each not in before[stage]
        )
        for stage in needed
    }


def _paths(paths: Sequence[Path], stage: Stage, recipe: Recipe) -> Iterator[Path]:
    """The paths of this one run."""
    of_run = {NAME: str(stage.name), SEED: str(stage.seed), MAIN_SEED: str(recipe.seeds[0])}
    for path in paths:
        text = str(path)
        for placeholder, value in of_run.items():
            text = text.replace(placeholder, value)
        yield Path(text)


def _meet(written: Sequence[Path], read: Sequence[Path]) -> bool:
    """Whether one of the written files or folders is, holds, or lies in one of those that are read."""
    return any(one == other or one in other.parents or other in one.parents for one in written for other in read)
