"""The registry and what it serves, with real stores and a real scoring server."""

import base64
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.exceptions import MlflowException

import mlim
from mlim.data.collate import Pair, PairCollator
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError, MlimError
from mlim.evaluation.gate import plain
from mlim.evaluation.scoring import score_pairs
from mlim.evaluation.threshold import Calibration
from mlim.files import read_json, sha256_of, write_json
from mlim.manifest import remove_derived, write_manifest
from mlim.models.matcher import Matcher
from mlim.recipe import GateConfig, Recipe, load_recipe
from mlim.registry import MODEL_SHA256, VERSION_SHA256, Registry
from mlim.shards.items import ItemStore
from mlim.steps.evaluate import evaluate, read_scored
from mlim.steps.finetune import finetune
from mlim.steps.register import register
from mlim.steps.report import report
from mlim.steps.stack import stack
from mlim.tracking import client
from mlim.workspace import Workspace
from mlim.writer import record_recipe
from tests.mlflow_server import MlflowServer
from tests.registry_room import Registered, artifacts_of, put_model, relabel, request, some_pairs, tracked_at

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_versions")]

SERVER_SECONDS = 120
REQUEST_SECONDS = 60
PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".pyc"}
PICKLE_PROTOCOL_MARKS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


@pytest.fixture
def recipe(tiny_recipe: Recipe, tmp_path: Path, new_store: Callable[[Path], str]) -> Recipe:
    return tracked_at(tiny_recipe, new_store(tmp_path / "own.db"))


@pytest.fixture
def trained(recipe: Recipe, own_workspace: Workspace) -> Workspace:
    """A work folder with a fine-tuned main model that was evaluated, as far as registration reads it."""
    put_model(recipe, own_workspace, seed=0)
    return own_workspace


def test_first_version_is_champion_and_leads_back_to_its_origin(registered):
    recipe, trained, summary, _ = registered
    assert (summary["version"], summary["aliases"], summary["promoted"]) == ("1", ["challenger", "champion"], True)
    assert read_json(trained.registration / "summary.json") == summary
    tags = Registry(recipe.tracking).tags("1")
    finetuned = read_json(trained.finetuned(recipe.main, 0) / "summary.json")["run_id"]
    assert tags["mlim.run.finetune"] == finetuned
    assert tags["mlim.commit"] == client(recipe.tracking).get_run(finetuned).data.tags["mlim.commit"]
    assert tags["mlim.data_version"] == sha256_of(trained.items / "manifest.json")
    assert tags["mlim.validation"] == "passed"
    assert tags["mlim.test_pairs_sha256"] == read_json(trained.pairs / "summary.json")["test_pairs_sha256"]
    assert tags["mlim.pr_auc"] == "0.500000"
    assert tags["stage"] == "Production"
    assert client(recipe.tracking).get_model_version(summary["model"], "1").run_id == summary["run_id"]


def test_objections_refuse_a_champion_until_a_person_says_why(recipe, trained, quiet, capfd):
    """A useless model ends as challenger, the run ends well, and what overrules it is recorded."""
    recipe = recipe.model_copy(update={"gate": GateConfig(sampled_pairs=8)})
    metrics = read_json(trained.evaluation / "summary.json")
    registered = {**metrics["registered"], "pr_auc": {"value": 0.35, "low": 0.3, "high": 0.4}}
    useless = {**metrics, "registered": registered, "called_matches": 1.0}
    write_json(trained.evaluation / "summary.json", useless)
    registry = Registry(recipe.tracking)
    summary = register(recipe, trained, quiet)
    assert (summary["aliases"], summary["promoted"], registry.roles.holder("champion")) == (["challenger"], False, None)
    assert {"chance", "one-answer"} <= {found["code"] for found in summary["objections"]}
    assert "not promoted (chance, one-answer" in summary["why"]
    assert "warning: not fit to be champion: PR-AUC 0.350 [0.300, 0.400] is not above chance" in capfd.readouterr().err
    card = (trained.registration / "model_card" / "README.md").read_text()
    assert (
        card.index("## Can you use this? Not yet") < card.index("is not above chance") < card.index("## Intended use")
    )
    with pytest.raises(InputError, match=r"has 1 version and no champion .* models:/mlim-matcher@challenger"):
        registry.version_of("champion")
    with pytest.raises(InputError, match="--force: is blank"):
        register(recipe, trained, quiet, " ")
    forced = register(recipe, trained, quiet, "a talk")
    assert (forced["version"], forced["aliases"], forced["forced"]) == ("1", ["challenger", "champion"], "a talk")
    tags = registry.tags("1")
    assert tags["mlim.forced"] == "a talk"
    assert tags["mlim.objections"].startswith("chance, one-answer")
    decided = mlim.load(f"models:/{registry.name}@champion", tracking_uri=recipe.tracking.uri).gate
    record_recipe(trained, recipe.record)
    assert decided == mlim.load(trained.root).gate
    assert (plain(decided.objections), decided.forced) == (forced["objections"], "a talk")
    again = register(recipe, trained, quiet)
    assert (again["promoted"], again["forced"], registry.roles.holder("champion")) == (False, "a talk", "1")
    client(recipe.tracking).delete_model_version_tag(registry.name, "1", "mlim.forced")
    doubted = register(recipe, trained, quiet)  # as one that became champion before there was a gate
    assert "it would not be promoted now (chance, one-answer" in doubted["why"]
    assert registry.roles.holder("champion") == "1"


def test_a_model_of_shuffled_labels_is_refused_and_the_run_ends_well(recipe, own_workspace, quiet):
    """Trained, evaluated, registered and reported on labels that mean nothing."""
    path = own_workspace.pairs / "pairs.parquet"
    table = pq.read_table(path)
    labels = pa.array(np.random.default_rng(0).permutation(table["label"].to_numpy()), pa.int8())
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", labels), path)
    changes = {"main": "no-pretraining", "gate": GateConfig(sampled_pairs=8)}
    recipe = recipe.model_copy(update=changes)
    finetune(recipe, own_workspace, quiet, recipe.main, recipe.seeds[0])
    stack(recipe, own_workspace, quiet)
    evaluate(recipe, own_workspace, quiet)
    summary = register(recipe, own_workspace, quiet)
    assert (summary["aliases"], Registry(recipe.tracking).roles.holder("champion")) == (["challenger"], None)
    assert "chance" in {found["code"] for found in summary["objections"]}
    report(recipe, own_workspace, quiet)
    page = (own_workspace.report / "index.html").read_text()
    assert "<h1>Can you use this? Not yet" in page
    assert "Nothing shows that it is better than chance" in page


def test_an_unchanged_model_makes_no_new_version(promoted, quiet):
    recipe, trained = promoted
    again = register(recipe, trained, quiet)
    assert (again["version"], again["promoted"]) == ("1", False)
    assert again["aliases"] == ["challenger", "champion"]
    assert len(client(recipe.tracking).search_model_versions("")) == 1


@pytest.mark.parametrize("better", [True, False])
def test_promotion_follows_the_same_test_pairs(promoted, quiet, better, monkeypatch):
    recipe, trained = promoted
    monkeypatch.setattr(
        "mlim.evaluation.resampling.FEWEST_UNITS", 2
    )  # the toy catalog has two families in its test split
    relabel(trained, recipe, "1", better=not better)  # the champion is now wrong (or right) on every pair
    put_model(recipe, trained, seed=0, head_scale=-1.0)  # the ranking turned over
    summary = register(recipe, trained, quiet)
    assert summary["version"] == "2"
    assert summary["promoted"] is better, summary["why"]
    registry = Registry(recipe.tracking)
    assert registry.roles.holder("challenger") == "2"
    assert registry.roles.holder("champion") == ("2" if better else "1")
    assert registry.tags("1")["stage"] == ("Archived" if better else "Production")
    assert registry.tags("2")["stage"] == ("Production" if better else "Staging")
    assert "champion version 1 on the same" in summary["why"]


def test_too_few_families_promote_nothing(promoted, quiet):
    """Point 6: without an interval a better figure is no reason to replace the champion, and one sentence says so."""
    recipe, trained = promoted
    relabel(trained, recipe, "1", better=False)
    put_model(recipe, trained, seed=0, head_scale=-1.0)
    summary = register(recipe, trained, quiet)
    assert not summary["promoted"]
    assert "fewer than the 10 that an interval needs: no interval and no verdict" in summary["why"]


def test_no_file_of_a_version_is_a_pickle(registered):
    files = [path for path in registered.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"MLmodel", "model.safetensors", "config.json", "tokenizer.json", "serving.json", "manifest.json"} <= names
    for path in files:
        assert path.suffix not in PICKLE_SUFFIXES, path
        assert not path.read_bytes().startswith((*PICKLE_PROTOCOL_MARKS, b"PK\x03\x04")), path


def test_tampered_weights_are_refused(promoted):
    recipe, trained = promoted
    folder = artifacts_of(recipe, "1")
    weights = next(folder.rglob("model.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    with pytest.raises(Exception, match=r"model\.safetensors changed"):
        Registry(recipe.tracking).score("1", [some_pairs(trained)])


def test_a_fetched_version_has_the_files_that_mlflow_gives(registered, tmp_path):
    mlflow.set_tracking_uri(registered.recipe.tracking.uri)
    try:
        plain = Path(mlflow.artifacts.download_artifacts("models:/mlim-matcher/1", dst_path=str(tmp_path)))
    finally:
        mlflow.set_tracking_uri(None)
    remove_derived(plain)
    with Registry(registered.recipe.tracking).fetched("1") as folder:
        assert _digests(folder) == _digests(plain)


def _digests(folder: Path) -> dict[Path, str]:
    return {path.relative_to(folder): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_is_no_missing_version(registered):
    """No place for the copy that is compared: the model counted as new, and got a second version."""
    registry = Registry(registered.recipe.tracking)
    sha256 = registry.tags("1")[MODEL_SHA256]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(MlimError, match=r"do not fit there .*; make room on the disk"):
            registry.find(sha256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert registry.find(sha256) == "1"


def test_a_champion_that_cannot_be_scored_stays_and_says_so(promoted, quiet):
    recipe, trained = promoted
    folder = artifacts_of(recipe, "1")
    settings = folder / "artifacts" / "matcher" / "serving.json"
    write_json(settings, {**read_json(settings), "setting_of_old": 1})  # as registered by another version of mlim
    write_manifest(settings.parent)
    remove_derived(folder)
    client(recipe.tracking).set_model_version_tag(
        recipe.tracking.model_name, "1", VERSION_SHA256, write_manifest(folder)
    )
    put_model(recipe, trained, seed=1)
    summary = register(recipe, trained, quiet)
    assert (summary["version"], summary["promoted"]) == ("2", False)
    assert "cannot be scored" in summary["why"]
    assert Registry(recipe.tracking).roles.holder("champion") == "1"


def test_registration_needs_its_inputs(recipe, own_workspace, quiet):
    with pytest.raises(InputError, match="mlim evaluate") as caught:
        register(recipe, own_workspace, quiet)
    assert len(caught.value.problems) == 3  # finetune, stack, evaluate


def test_evaluation_of_another_variant_is_refused(recipe, trained, quiet):
    metrics = read_json(trained.evaluation / "summary.json")
    write_json(trained.evaluation / "summary.json", {**metrics, "row": "no-mdo"})
    with pytest.raises(InputError, match="run `mlim evaluate` again"):
        register(recipe, trained, quiet)


@pytest.fixture(scope="module")
def loaded(registered: Registered) -> Iterator[Any]:
    search_path = list(sys.path)
    yield mlflow.pyfunc.load_model(str(registered.folder))
    sys.path[:] = search_path


def test_a_pair_scores_the_same_alone_and_in_a_batch(registered, loaded):
    pairs = some_pairs(registered.workspace, count=12)
    scores = loaded.predict(pairs)
    assert list(scores.columns) == ["probability", "match"]
    assert (scores["match"] == (scores["probability"] >= 0.5)).all()
    single = pd.concat([loaded.predict(pairs.iloc[[row]]) for row in range(len(pairs))])
    np.testing.assert_allclose(scores["probability"], single["probability"], atol=1e-5)


def test_served_scores_are_those_of_the_network(registered, loaded):
    """Base64, limits and settings change nothing for pictures out of the shards."""
    recipe, workspace = registered.recipe, registered.workspace
    folder = workspace.finetuned(recipe.main, recipe.seeds[0]) / "model"
    frame = pq.read_table(workspace.pairs / "pairs.parquet").to_pandas().query("split == 'test'").head(8)
    store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
    collate = PairCollator(store, TextTokenizer.from_folder(folder), recipe.text.max_tokens)
    batch = collate([Pair(row.item_a, row.item_b, row.label) for row in frame.itertuples()]).with_floats()
    with torch.inference_mode():
        direct = torch.sigmoid(Matcher.from_pretrained(folder)(batch.first, batch.second, "both"))
    served = loaded.predict(request(workspace, frame))["probability"]
    np.testing.assert_allclose(served, direct, atol=1e-6)


def test_a_served_stack_scores_as_the_batch_did(recipe, trained, quiet):
    """Parts, matcher and their combination, from the texts, pictures and fields of a request alone."""
    folder = trained.finetuned(recipe.main, recipe.seeds[0])
    pairs = pd.read_parquet(trained.pairs / "pairs.parquet", columns=["item_a", "item_b", "label", "split"])
    pairs = pairs[pairs["split"] != "train"]
    network = Matcher.from_pretrained(folder / "model")
    store = ItemStore.open(trained.items, trained.valid / "index.parquet")
    collate = PairCollator(store, TextTokenizer.from_folder(folder / "model"), recipe.text.max_tokens)
    shown = [Pair(*row) for row in pairs[["item_a", "item_b", "label"]].itertuples(index=False)]
    scores = {modality: score_pairs(network, shown, collate, modality, 8) for modality in ("both", "text", "image")}
    shares = [pairs.assign(modality=modality, score=values) for modality, values in scores.items()]
    pd.concat(shares).to_parquet(folder / "scores.parquet")
    stack(recipe, trained, quiet)
    metrics = evaluate(recipe, trained, quiet)
    assert metrics["registered"]["scorer"] != "matcher"  # the network is random
    for run in (metrics["run_id"], read_json(trained.pipeline)["run_id"]):  # the parent shows them too
        shown = client(recipe.tracking).get_run(run).data.metrics
        assert shown["test/pr_auc"] == pytest.approx(metrics["registered"]["pr_auc"]["value"])
        assert shown["validation/precision"] == pytest.approx(metrics["validation_precision_at_threshold"])
    version = register(recipe, trained, quiet)["version"]
    assert Registry(recipe.tracking).tags(version)["mlim.scorer"] == metrics["registered"]["scorer"]
    scored = read_scored(recipe, trained)
    test = scored.of_registered.query("split == 'test'")
    expected = Calibration(**metrics["calibration"]).apply(test["score"].to_numpy())
    answers = Registry(recipe.tracking).answer(version, [request(trained, test)])
    np.testing.assert_allclose(answers["probability"], expected, atol=1e-5)
    texts = request(trained, test)[["text_a", "text_b"]]
    with Registry(recipe.tracking).fetched(version) as files:
        alone = mlflow.pyfunc.load_model(str(files)).predict(texts, params={"modality": "text"})
    matcher = scored.matcher.query("split == 'test' and modality == 'text'")["score"].to_numpy()
    decision = metrics["matcher_by_modality"]["text"]
    assert decision != metrics["matcher"]
    expected = Calibration(decision["slope"], decision["intercept"]).apply(matcher)
    np.testing.assert_allclose(alone["probability"], expected, atol=1e-5)
    apart = np.abs(matcher - decision["threshold"]) > 1e-5  # scores differ a little with what they are computed with
    np.testing.assert_array_equal(alone["match"][apart], (matcher >= decision["threshold"])[apart])


def test_a_server_far_away_holds_versions_too(tiny_recipe, own_workspace, quiet, tmp_path):
    """Everything through `mlflow server`: files go over HTTP, and the champion is fetched to be scored."""
    with MlflowServer(tmp_path) as server:
        recipe = tracked_at(tiny_recipe, server.address)
        put_model(recipe, own_workspace, seed=0)
        summary = register(recipe, own_workspace, quiet)
        pairs = some_pairs(own_workspace)
        scores = Registry(recipe.tracking).score(Registry(recipe.tracking).version_of("champion"), [pairs])
    assert (summary["version"], summary["uri"], summary["promoted"]) == ("1", server.address, True)
    assert len(scores) == len(pairs)


def test_modality_chooses_what_is_looked_at(registered, loaded):
    pairs = some_pairs(registered.workspace)
    texts = loaded.predict(pairs[["text_a", "text_b"]], params={"modality": "text"})
    others = pairs.assign(image_a=pairs["image_b"])
    np.testing.assert_array_equal(texts, loaded.predict(others, params={"modality": "text"}))
    pictures = loaded.predict(pairs[["image_a", "image_b"]], params={"modality": "image"})
    assert not np.array_equal(texts["probability"], pictures["probability"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_a": "no base64!"}, "row 1, image_a is not base64"),
        ({"image_b": base64.b64encode(b"no picture").decode()}, "row 1, image_b cannot be decoded"),
        ({"image_b": ""}, "empty-image"),
        ({"image_a": None}, "row 1: `image_a` is not a string"),
    ],
)
def test_bad_pictures_get_one_sentence(registered, loaded, change, message):
    with pytest.raises(MlflowException, match=message):
        loaded.predict(some_pairs(registered.workspace, count=1).assign(**change))


def test_missing_columns_and_unknown_modalities_are_named(registered, loaded):
    pairs = some_pairs(registered.workspace)
    with pytest.raises(MlflowException, match="column `image_a` is missing"):
        loaded.predict(pairs[["text_a", "text_b"]])
    with pytest.raises(MlflowException, match="modality `smell` is none of"):
        loaded.predict(pairs, params={"modality": "smell"})


def test_a_version_brings_its_own_code(registered, tmp_path):
    """Loaded in a fresh process, `mlim` is the copy inside the version and not the one installed here."""
    folder, pairs = registered.folder, some_pairs(registered.workspace)
    pairs.to_parquet(tmp_path / "pairs.parquet")
    script = (
        "import sys, mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print(model.predict(pandas.read_parquet(sys.argv[2])).to_json())\n"
        "import mlim; print(mlim.__file__)\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "pairs.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    *_, scores, code = done.stdout.splitlines()
    assert Path(code).is_relative_to(folder)
    assert len(json.loads(scores)["probability"]) == len(pairs)


@pytest.fixture
def scoring_server(registered: Registered, tmp_path: Path) -> Iterator[str]:
    recipe, summary = registered.recipe, registered.summary
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    tools = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": str(recipe.tracking.uri),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{summary['model']}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"{address}/ping", server, tmp_path / "serve.log")
            yield address
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=REQUEST_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    pytest.fail(f"the server did not answer: {log.read_text()[-2000:]}")


def post(address: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{address}/invocations", data=data, headers=headers)
    with urllib.request.urlopen(asked, timeout=REQUEST_SECONDS) as answer:
        return json.load(answer)


def test_the_champion_answers_over_http_as_in_the_process(registered, scoring_server):
    pairs = some_pairs(registered.workspace)
    answer = post(scoring_server, {"dataframe_records": pairs.to_dict(orient="records")})
    served = [row["probability"] for row in answer["predictions"]]
    np.testing.assert_allclose(served, Registry(registered.recipe.tracking).score("1", [pairs]), atol=1e-6)
    texts = pairs[["text_a", "text_b"]].to_dict(orient="records")
    assert post(scoring_server, {"dataframe_records": texts, "params": {"modality": "text"}})["predictions"]
    bad = pairs.head(1).assign(image_a="no base64!").to_dict(orient="records")
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(scoring_server, {"dataframe_records": bad})
    assert refused.value.code == 400
    assert "row 1, image_a is not base64" in refused.value.read().decode()


def test_registering_says_nothing_on_the_terminal(recipe, trained, quiet, capfd):
    register(recipe, trained, quiet)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_registering_leaves_the_environment_and_the_search_path_alone(promoted, quiet, monkeypatch):
    recipe, trained = promoted
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_model(recipe, trained, seed=1)
    before = {name: value for name, value in os.environ.items() if name.endswith("_URI")}, list(sys.path)
    register(recipe, trained, quiet)
    assert ({name: value for name, value in os.environ.items() if name.endswith("_URI")}, sys.path) == before


def test_the_recipe_of_another_model_name_is_another_model(promoted, quiet):
    recipe, trained = promoted
    other = load_recipe("demo").tracking.model_copy(update={"uri": recipe.tracking.uri, "model_name": "shoes"})
    summary = register(recipe.model_copy(update={"tracking": other}), trained, quiet)
    assert (summary["model"], summary["version"], summary["promoted"]) == ("shoes", "1", True)
