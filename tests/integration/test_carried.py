"""A folder of trainings that somebody else made: what is read of it, what is left, and where it is recorded."""

import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json, read_plain, write_json
from mlim.recipe import Recipe, load_recipe
from mlim.steps import carried
from mlim.steps.import_run import chosen_tracking, import_run
from mlim.tracking import client
from mlim.workspace import Workspace, run_name

pytestmark = pytest.mark.integration

ROW, SEED = "no-pretraining", 0
SECRET = "the secret of another folder"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
QUIET = Terminal(quiet=True)
HISTORY = "step,kind,mode,match,pr_auc\n10,train,both,0.7,\n10,validation,both,0.6,0.8\n"


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo", ["tracking.uri=none"])


def put_training(workspace: Workspace, recipe: Recipe, **changes: Any) -> Path:
    """A training that has ended, as a machine without MLflow leaves it; gives its folder."""
    folder = workspace.finetuned(ROW, SEED)
    workspace.root.mkdir(parents=True, exist_ok=True)
    workspace.recipe.write_text(recipe.to_yaml(), encoding="utf-8")
    summary = {
        "row": ROW,
        "seed": SEED,
        "settings": recipe.training_key("finetune", ROW),
        "seconds": 12.5,
        "hardware": "cpu, threads: 2",
        "final": {"match": 0.6},
        "skipped_steps": 0,
        "run_id": None,
        "ended": "2026-11-01T12:00:00+00:00",
    }
    write_json(folder / "summary.json", {**summary, **changes})
    (folder / "history.csv").write_text(HISTORY)
    strips = workspace.samples("finetune", ROW, SEED) / "reconstructions"
    strips.mkdir(parents=True)
    (strips / "step-00000010.png").write_bytes(PNG)
    return folder


@pytest.fixture
def workspace(recipe: Recipe, tmp_path: Path) -> Workspace:
    brought = Workspace(tmp_path / "brought")
    put_training(brought, recipe)
    return brought


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The importing person's folder and store."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return load_recipe("demo")


@pytest.fixture
def store(home: Recipe, new_store: Callable[[Path], str]) -> None:
    """The store is there already, without runs."""
    new_store(Path("mlflow.db"))


def recorded(home: Recipe, run_id: str) -> set[str]:
    store = client(home.tracking)
    found = [store.list_artifacts(run_id, folder) for folder in (None, "samples", "samples/reconstructions")]
    return {entry.path for entries in found for entry in entries if not entry.is_dir}


def sent(place: Path) -> bool:
    """Whether the secret has got into the importing person's folder."""
    return any(SECRET.encode() in path.read_bytes() for path in place.rglob("*") if path.is_file())


class Listener(BaseHTTPRequestHandler):
    """A server that somebody else has named in the folder: it notes that it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Any]:
    kind = type("Noting", (Listener,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.asked = kind.asked  # type: ignore[attr-defined]
        yield server
        server.shutdown()


def test_the_store_is_the_choice_of_who_imports(workspace, recipe, home, listener, tmp_path):
    """Point 22: `tracking` of the folder's recipe sends nothing anywhere; its experiment is kept as a tag."""
    foreign = recipe.tracking.model_copy(
        update={"uri": f"http://127.0.0.1:{listener.server_port}", "experiment": "theirs", "model_name": "theirs"}
    )
    workspace.recipe.write_text(recipe.model_copy(update={"tracking": foreign}).to_yaml(), encoding="utf-8")
    done = import_run(workspace.root, chosen_tracking([]), QUIET)
    assert listener.asked == []
    assert done["store"] == f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}"
    [run_id] = done["imported"].values()
    run = client(home.tracking).get_run(run_id)
    assert client(home.tracking).get_experiment(run.info.experiment_id).name == home.tracking.experiment
    assert run.data.tags["mlim.imported_experiment"] == "theirs"
    assert recorded(home, run_id) == {"history.csv", "recipe.yaml", "samples/reconstructions/step-00000010.png"}


def test_another_store_is_chosen_by_an_option(workspace, home, tmp_path):
    """Point 22: `--set tracking.uri` chooses, and nothing else of the recipe can be set."""
    chosen = chosen_tracking([f"tracking.uri=sqlite:///{tmp_path / 'other.db'}", "tracking.experiment=gpu"])
    done = import_run(workspace.root, chosen, QUIET)
    assert done["store"] == f"sqlite:///{tmp_path / 'other.db'}"
    assert not Path("mlflow.db").exists()
    for wrong in ("seed=3", "tracking.uri=none", "tracking.url=x"):
        with pytest.raises(InputError, match=wrong.partition("=")[0]):
            chosen_tracking([wrong])


def history(workspace: Workspace) -> Path:
    return workspace.finetuned(ROW, SEED) / "history.csv"


def summary(workspace: Workspace) -> Path:
    return workspace.finetuned(ROW, SEED) / "summary.json"


def strip(workspace: Workspace) -> Path:
    return workspace.samples("finetune", ROW, SEED) / "reconstructions" / "step-00000010.png"


def trace(workspace: Workspace) -> Path:
    return workspace.samples("finetune", ROW, SEED) / "trace.json.gz"


LINKED = {
    "history": history,
    "summary": summary,
    "strip": strip,
    "strips": lambda workspace: strip(workspace).parent,
    "trace": trace,
    "of one training": lambda workspace: strip(workspace).parent.parent,
    "samples": lambda workspace: workspace.root / "samples",
    "training": lambda workspace: workspace.finetuned(ROW, SEED),
    "trainings": lambda workspace: workspace.finetuned(ROW, SEED).parent,
    "recipe": lambda workspace: workspace.recipe,
    "pipeline": lambda workspace: workspace.pipeline,
    "lock": lambda workspace: workspace.root / ".pipeline.json.lock",
}


@pytest.mark.parametrize("which", LINKED)
def test_links_are_not_followed(workspace, home, tmp_path, which):
    """Point 22: a link in the folder, to a file or to a folder, uploads nothing of what it leads to."""
    path, elsewhere = LINKED[which](workspace), tmp_path / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_bytes(b"\x1f\x8b" + SECRET.encode())
    for inner in elsewhere.rglob("*.png") if elsewhere.is_dir() else [elsewhere]:
        inner.write_bytes(inner.read_bytes() + SECRET.encode())
    before = elsewhere.read_bytes() if elsewhere.is_file() else b""
    path.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link, which is not followed"):
        import_run(workspace.root, chosen_tracking([]), QUIET)
    assert not sent(tmp_path / "home")
    assert not Path("mlflow.db").exists()
    assert not elsewhere.is_file() or elsewhere.read_bytes() == before


@pytest.mark.usefixtures("store")
def test_a_linked_run_of_an_experiment_is_left_and_the_rest_recorded(workspace, recipe, home, tmp_path):
    """Point 22: what cannot be recorded is named; what can be is recorded."""
    put_training(Workspace(tmp_path / "elsewhere"), recipe)
    workspace.experiment_runs.mkdir()
    (workspace.experiment_runs / "wide").symlink_to(tmp_path / "elsewhere")
    done = import_run(workspace.root, chosen_tracking([]), QUIET)
    assert len(done["imported"]) == 1
    assert ["is a link" in why for why in done["left"]] == [True]


@pytest.mark.usefixtures("store")
def test_only_known_files_of_their_kind_are_kept(workspace, home, monkeypatch):
    """Point 22: other names stay behind; a file that is not what its name says, or too large, is one sentence."""
    strip(workspace).with_name("notes.txt").write_text(SECRET)
    strip(workspace).with_name("step-x.png").write_text(SECRET)
    [run_id] = import_run(workspace.root, chosen_tracking([]), QUIET)["imported"].values()
    assert not any("notes" in name or "step-x" in name for name in recorded(home, run_id))
    assert not sent(Path())
    write_json(summary(workspace), {**read_json(summary(workspace)), "run_id": None})
    strip(workspace).write_text(SECRET)
    with pytest.raises(InputError, match="is not of the kind that its name says"):
        import_run(workspace.root, chosen_tracking([]), QUIET)
    strip(workspace).write_bytes(PNG)
    monkeypatch.setattr(carried, "HISTORY_BYTES", 20)
    with pytest.raises(InputError, match="is larger than 20 bytes"):
        import_run(workspace.root, chosen_tracking([]), QUIET)


def test_a_pipe_does_not_wait_for_its_writer(workspace, tmp_path):
    """Point 22: something that is no regular file is one sentence."""
    history(workspace).unlink()
    os.mkfifo(history(workspace))
    with pytest.raises(InputError, match="is no regular file"):
        read_plain(workspace.root, history(workspace), 100)
    with pytest.raises(InputError, match="leads out of"):
        read_plain(workspace.root, workspace.root / ".." / "elsewhere", 100)


BROKEN = [
    ({"seed": "0"}, "seed"),
    ({"seed": -1}, "seed"),
    ({"seed": True}, "seed"),
    ({"seconds": math.nan}, "seconds"),
    ({"seconds": 1e300}, "seconds"),
    ({"seconds": None}, "seconds"),
    ({"final": [1]}, "final"),
    ({"final": {"match": math.nan}}, "match"),
    ({"final": {"match": "low"}}, "match"),
    ({"skipped_steps": 0.5}, "skipped_steps"),
    ({"hardware": {"name": "x"}}, "hardware"),
    ({"hardware": "x" * 100_000}, "hardware"),
    ({"hardware": "\ud83d"}, "hardware"),
    ({"run_id": 5}, "run_id"),
    ({"lineage": {"commit": "c"}}, "lineage"),
    ({"lineage": "c0ffee"}, "lineage"),
    ({"ended": "yesterday"}, "ended"),
    ({"ended": "2026-11-01T12:00:00"}, "ended"),
    ({"ended": "1970-01-01T00:00:01+00:00"}, "ended"),
    ({"row": ["no-pretraining"]}, "other settings"),
    ({"row": "../../../elsewhere"}, "other settings"),
    ({"seed": 7}, "is called"),
]


@pytest.mark.parametrize(("change", "named"), BROKEN, ids=[json.dumps(change)[:40] for change, _ in BROKEN])
def test_a_broken_summary_is_one_sentence(workspace, home, change, named):
    """Point 22: a wrong type, NaN, or something huge in a summary; nothing is recorded, not even the store made."""
    summary(workspace).write_text(json.dumps({**read_json(summary(workspace)), **change}))
    with pytest.raises(InputError, match=named) as caught:
        import_run(workspace.root, chosen_tracking([]), QUIET)
    assert "\n" not in str(caught.value)
    assert "left" in str(caught.value)
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "[" * 100_000, '{"seed": 1' + "0" * 5000 + "}", "\ud800"])
def test_a_summary_that_is_no_object_is_one_sentence(workspace, home, text):
    """Point 22: no JSON, another kind of JSON, JSON that is nested too deeply."""
    summary(workspace).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"summary\.json: (cannot be read|does not say)"):
        import_run(workspace.root, chosen_tracking([]), QUIET)


@pytest.mark.parametrize(
    "text",
    [
        "no header\n1\n",
        "step,kind,mode,match\nx,train,both,0.5\n",
        "step,kind,mode,match\n-1,train,both,0.5\n",
        "step,kind,mode,match\n1,other,both,0.5\n",
        "step,kind,mode,match\n1,train,../x,0.5\n",
        "step,kind,mode,match\n1,train,both,high\n",
        "step,kind,mode,match\n1\n",
        "\xff",
    ],
)
def test_a_history_that_is_none_is_left(workspace, home, text):
    """Point 22: nothing is half-recorded: the history is read before a run is opened."""
    history(workspace).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"history\.csv: is no history"):
        import_run(workspace.root, chosen_tracking([]), QUIET)
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name: &a x\nseed: *a\n", "aliases"),
        ("[" * 5000, "nested too deeply|not valid YAML"),
        ("name: x\n", "missing key"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_recipe_that_is_none_is_one_sentence_each(workspace, home, text, why):
    """Point 22: a recipe that cannot be read, or whose aliases stand for gigabytes."""
    workspace.recipe.write_text(text)
    with pytest.raises(InputError, match=why):
        import_run(workspace.root, chosen_tracking([]), QUIET)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("text", ["{", "[1]", '{"fingerprint": 5}', '{"run_id": {}}', "[" * 100_000])
def test_a_broken_pipeline_file_names_no_parent(workspace, home, text):
    """Point 22: the file that names the parent run may say anything; then there is a new parent."""
    workspace.pipeline.write_text(text)
    assert len(import_run(workspace.root, chosen_tracking([]), QUIET)["imported"]) == 1
    assert run_name(ROW, SEED) in next(iter(import_run(workspace.root, chosen_tracking([]), QUIET)["known"]))
