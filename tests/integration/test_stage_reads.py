"""What a stage is said to depend on, and what it really reads, are the same: the pipeline run from that alone."""

import os
import shutil
from contextlib import chdir
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import pytest
import yaml

from mlim.console import Terminal
from mlim.embedded.generate import synthesize
from mlim.loading import load
from mlim.recipe import Recipe, load_recipe
from mlim.steps.ablate import ablate
from mlim.steps.evaluate import evaluate
from mlim.steps.finetune import finetune
from mlim.steps.ingest import ingest
from mlim.steps.match import match
from mlim.steps.pairs import make_pairs
from mlim.steps.plan import READ_THE_CATALOG, Stage, everything
from mlim.steps.pretrain import pretrain
from mlim.steps.probe import probe
from mlim.steps.register import register
from mlim.steps.report import report
from mlim.steps.score import prepared_for
from mlim.steps.stack import stack
from mlim.steps.stages import MAIN_SEED, NAME, SAME_RESULT, SEED, WHOLE_RECIPE, Definition, define_stages
from mlim.steps.validate import validate
from mlim.versions import DVC_CATALOG
from mlim.workspace import Workspace
from mlim.writer import claim_work, record_recipe
from tests.integration.conftest import ITEMS, tiny_values
from tests.watched_recipe import watched

pytestmark = pytest.mark.integration

WORK = Path("build/demo")


def match_with_its_model(recipe: Recipe, catalog: Path, work: Workspace, quiet: Terminal) -> None:
    """As the stage's command: the model is the work folder's own."""
    record_recipe(work, recipe.record)
    model = load(work.root)
    match(model, "model", catalog, work.matches, prepared_for(recipe, model.settings), work, quiet, workers=1)


STEPS = {
    "ingest": ingest,
    "validate": validate,
    "pairs": make_pairs,
    "pretrain": pretrain,
    "finetune": finetune,
    "stack": stack,
    "evaluate": evaluate,
    "ablate": ablate,
    "probe": probe,
    "report": report,
    "register": register,
    "match": match_with_its_model,
}
TO_LOOK_AT = {("pretrain", "probe.reconstruction_masking")}  # of pictures that a running training leaves


@dataclass
class Project:
    """A project folder in which every stage found nothing but what it is said to read; what it then read is noted."""

    folder: Path
    recipe: Recipe
    seen: dict[str, set[str]] = field(default_factory=dict)

    @property
    def stages(self) -> list[Stage]:
        return list(everything(self.recipe))

    def definition(self, stage: Stage) -> Definition:
        """What is said of a stage, with its variant and seed filled in."""
        defined = define_stages(self.recipe, Workspace(WORK))[stage.kind]
        values = {NAME: str(stage.name), SEED: str(stage.seed), MAIN_SEED: str(self.recipe.seeds[0])}

        def filled(text: object) -> str:
            return reduce(lambda known, entry: known.replace(*entry), values.items(), str(text))

        reads, writes = ([Path(filled(path)) for path in paths] for paths in (defined.reads, defined.writes))
        return replace(defined, reads=reads, writes=writes, settings=[filled(key) for key in defined.settings])

    def run(self, stage: Stage, elsewhere: Path) -> None:
        """Run a stage in another folder that holds what it reads, and bring back what it writes."""
        defined = self.definition(stage)
        for place in (elsewhere, self.folder):
            claim_work(Workspace(place / WORK))  # as every command does
        for path in defined.reads:
            copy(self.folder / path, elsewhere / path)
        self.call(stage, elsewhere, watched(self.recipe, self.seen.setdefault(stage.target, set())))
        for path in defined.writes:
            copy(elsewhere / path, self.folder / path)

    def call(self, stage: Stage, folder: Path, recipe: Recipe) -> None:
        catalog = [DVC_CATALOG] if stage.command in READ_THE_CATALOG else []
        run = [] if stage.name is None else [stage.name, stage.seed]
        with chdir(folder):  # where the command is called, so that no result names a folder of the test
            STEPS[stage.command](recipe, *catalog, Workspace(WORK), Terminal(quiet=True), *run)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    synthesize(folder / "data", ITEMS, 0, 64, 1, Terminal(quiet=True))
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_values(), sort_keys=False))
    tracking = f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"
    made = Project(folder, load_recipe(str(folder / "params.yaml"), [tracking, "ingest.workers=1", "device=cpu"]))
    for number, stage in enumerate(everything(made.recipe)):
        made.run(stage, tmp_path_factory.mktemp(f"stage{number}"))
    return made


def below(key: str, section: str) -> bool:
    return section == WHOLE_RECIPE or f"{key}.".startswith(f"{section}.")


def test_every_stage_runs_on_what_it_is_said_to_read(project: Project) -> None:
    """Point 14: an input that dvc.yaml does not name would have been missing."""
    for stage in project.stages:
        assert all((project.folder / path).exists() for path in project.definition(stage).writes), stage.target


def test_every_setting_that_a_stage_reads_makes_it_stale(project: Project) -> None:
    """Point 14: what a step reads of params.yaml, DVC reads too, but for what is said to change no result."""
    assert project.seen.keys() == {stage.target for stage in project.stages}
    for stage in project.stages:
        known = [*project.definition(stage).settings, *SAME_RESULT]
        missing = {key for key in project.seen[stage.target] if not any(below(key, section) for section in known)}
        assert {(stage.command, key) for key in missing} <= TO_LOOK_AT, stage.target


def test_a_stage_reads_every_setting_that_makes_it_stale(project: Project) -> None:
    """Point 14: a change of what a step does not read leaves its result alone."""
    for stage in project.stages:
        for section in project.definition(stage).settings:
            assert any(below(key, section) for key in project.seen[stage.target]), f"{stage.target}: {section}"


def test_the_page_shows_nothing_that_the_report_is_not_said_to_read(project: Project) -> None:
    """Point 14: the report leaves out what is not there, so that an input which is not named would go unnoticed."""
    page = project.folder / WORK / "report" / "index.html"
    before = page.read_bytes()
    project.call(Stage("report"), project.folder, project.recipe)
    assert page.read_bytes() == before
