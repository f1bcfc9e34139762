"""The training core with only torch, transformers, pyarrow, pillow, simplejpeg and pydantic, and what these need."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from training_room import for_the_room

BARE = ("torch", "transformers", "pyarrow", "pillow", "simplejpeg", "pydantic")
TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.integration

# Other packages are made to look absent before anything is imported.
HIDE = """
import json, sys
from pathlib import Path
absent = set(json.loads(sys.argv[1]))

class Filtered:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Filtered(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
del sys.argv[1]
"""
TRAIN = """
sys.path.insert(0, sys.argv[1])
from training_room import Room
from mlim.shards.items import ItemStore
from mlim.models.matcher import Matcher
from mlim.tasks.match import MatchObjective
from mlim.recipe import load_recipe
import mlim.steps.trained, mlim.models.hub, mlim.throughput
work = Path(sys.argv[2])
store = ItemStore.open(work / "items", work / "valid" / "index.parquet")
_, result = Room(load_recipe(sys.argv[3]), store, Path(sys.argv[4])).start()
print(result.steps, "compiler loaded" if "torch._dynamo" in sys.modules else "")
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions that `names` need, and themselves."""
    found, todo = set(), [*names]
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        requirements = [Requirement(line) for line in needed]
        todo += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def absent() -> list[str]:
    """The modules that such a machine lacks."""
    there = closure(BARE)
    names = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if module.isidentifier()
        and module not in sys.stdlib_module_names
        and not there & {name.lower().replace("_", "-") for name in distributions}
        and module not in {"mlim", "flows"}
    ]
    assert {"mlflow", "prefect", "dvc", "great_expectations", "pandas", "dask", "psutil"} <= set(names)
    return names


def run(program: str, absent: list[str], *words: object, **options: object) -> str:
    command = [sys.executable, "-c", HIDE + program, json.dumps(absent), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_training_runs_with_the_bare_packages(absent, tiny_recipe, tiny_workspace, tmp_path):
    (tmp_path / "recipe.yaml").write_text(for_the_room(tiny_recipe).to_yaml(), encoding="utf-8")
    said = run(TRAIN, absent, TESTS, tiny_workspace.root, tmp_path / "recipe.yaml", tmp_path / "checkpoints")
    assert said.split() == ["24"]


def bench(absent, recipe, folder, *words) -> str:
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    program = "import runpy; sys.path.insert(0, 'benchmarks'); runpy.run_path('benchmarks/gpu.py', run_name='__main__')"
    return run(program, absent, words[0], "--recipe", folder / "recipe.yaml", *words[1:], cwd=TESTS.parent)


def test_the_benchmark_for_gpus_runs_with_the_bare_packages(absent, tiny_recipe, tmp_path):
    """On a CPU, where it says what cannot be measured; a part that fails would say so."""
    said = bench(absent, tiny_recipe, tmp_path, "measure", "--device", "cpu", "--steps", 2, "--rounds", 1, "--batch", 2)
    rungs = ("transformer only", "full model, synthetic data", "loader only", "end to end")
    for row in (*rungs, "fp32", "bf16", "bf16, another seed", "all", "1", "libjpeg-turbo, one core"):
        assert f"| {row} |" in said
    assert "not measured: no counter of the memory of cpu" in said
    assert "failed" not in said
    short = bench(absent, tiny_recipe, tmp_path, "measure", "--device", "cpu", "--minutes", 0)
    assert short.count("left out: the minutes are over") == 5


def test_what_a_gpu_will_need_is_counted_without_one(absent, tiny_recipe, tmp_path):
    said = bench(absent, tiny_recipe, tmp_path, "plan", "--batch", 2)
    memory = [line for line in said.partition("Graphs")[0].splitlines() if line.startswith("|")][2:]
    assert [int(line.split("|")[1]) for line in memory] == [16, 32, 64, 128, 256]
    for part in ("block", "embedder", "decoder"):
        assert f"| {part} | 1 | 0 |" in said  # one graph, without an interruption
