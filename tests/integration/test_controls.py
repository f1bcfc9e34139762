"""Controls: what a training finds must be in the data, so it goes when the data are taken away.

Shuffled labels leave nothing to learn: the model lands at prevalence. Noise in place of one modality leaves the other:
no model gets past what the best possible reader of that one could do, and ours still learns from it.
"""

import csv
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlim.console import Terminal
from mlim.embedded.ceilings import measure_ceilings, read_catalog
from mlim.embedded.generate import synthesize
from mlim.evaluation.evidence import read_evidence
from mlim.evaluation.resampling import effect_of, resample
from mlim.recipe import load_recipe
from mlim.steps.experiment_runs import trained_variants
from mlim.steps.finetune import finetune
from mlim.steps.ingest import ingest
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from mlim.workspace import Workspace

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

ITEMS, SIDE = 4000, 64
VARIANT, SEED = "no-pretraining", 0
FAR = 3  # standard errors
LEARNED = 0.5  # of the way from prevalence to the ceiling: less would say that the modality left was not learned
QUIET = Terminal(quiet=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The demo with enough fine-tuning to learn the task from either modality, and nothing refused for its looks."""
    database = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    return load_recipe(
        "demo",
        [
            f"tracking.uri=sqlite:///{database}",
            "model.layers=4",
            "finetune.steps=1200",
            "validation.max_text_uses=100000",
            "validation.max_quarantined_share=1",
        ],
    )


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """An embedded catalog."""
    out = tmp_path_factory.mktemp("catalog") / "data"
    synthesize(out, ITEMS, seed=1, image_size=SIDE, workers=2, terminal=QUIET)
    return out


def prepared(recipe, catalog, work):
    """The catalog through ingest, validate and pairs."""
    workspace = Workspace(work)
    ingest(recipe, catalog / "catalog.yaml", workspace, QUIET)
    validate(recipe, catalog / "catalog.yaml", workspace, QUIET)
    make_pairs(recipe, catalog / "catalog.yaml", workspace, QUIET)
    return workspace


def judged(recipe, workspace):
    """PR-AUC of a fine-tuned model on the test pairs, its standard error over families, and the prevalence."""
    finetune(recipe, workspace, QUIET, VARIANT, SEED)
    evidence = read_evidence(workspace, {VARIANT: trained_variants(recipe, workspace)[VARIANT]})
    drawn = resample(evidence.pairs, {VARIANT: evidence.variants[VARIANT].at((SEED,))}, samples=1000, seed=SEED)
    effect = effect_of(drawn[VARIANT], evidence.pairs.clusters, confidence=0.95)
    return effect.value, effect.standard_error, evidence.pairs.labels.mean()


def test_shuffled_labels_land_at_prevalence(recipe, catalog, tmp_path):
    workspace = prepared(recipe, catalog, tmp_path / "work")
    path = workspace.pairs / "pairs.parquet"
    pairs = pd.read_parquet(path)
    shuffled = np.random.default_rng(0).permutation(pairs["label"].to_numpy())
    pairs.assign(label=shuffled).to_parquet(path, index=False)
    value, error, prevalence = judged(recipe, workspace)
    assert value == pytest.approx(prevalence, abs=FAR * error)


def noise_for_pictures(folder):
    generator = np.random.default_rng(0)
    for path in sorted(folder.rglob("*.jpg")):
        if path.stat().st_size:
            Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path, quality=90)


def noise_for_texts(folder):
    generator = np.random.default_rng(0)
    with (folder / "catalog.csv").open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    words = sorted({word for row in rows for column in ("title", "details") for word in row[column].split()})
    for row in rows:
        for column in ("title", "colour", "material", "details"):
            row[column] = " ".join(generator.choice(words, 4))
    with (folder / "catalog.csv").open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(("noise", "left"), [(noise_for_pictures, "text"), (noise_for_texts, "image")])
def test_noise_for_one_modality_leaves_the_ceiling_of_the_other(recipe, catalog, tmp_path, noise, left):
    ceiling = getattr(measure_ceilings(read_catalog(catalog / "catalog.csv")), left)
    folder = shutil.copytree(catalog, tmp_path / "data")
    noise(folder)
    value, error, prevalence = judged(recipe, prepared(recipe, folder, tmp_path / "work"))
    assert value < ceiling + FAR * error
    assert value > prevalence + LEARNED * (ceiling - prevalence)
