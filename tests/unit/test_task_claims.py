"""Claims about answers: verdicts from scores on disk, the gate for what nobody learnt, tables of papers beside ours."""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.evaluation.evidence import Evidence
from mlim.evaluation.judges import judge_of
from mlim.evaluation.judging import Settings, judge
from mlim.evaluation.resampling import Resampling
from mlim.evaluation.task_evidence import TaskEvidence
from mlim.evaluation.task_scores import read_task_evidence
from mlim.files import read_json, write_json
from mlim.recipe import Recipe
from mlim.references.claims import Claim, TaskVariants
from mlim.report.results import _part, collect
from mlim.report.task_claims import paper_blocks, task_papers
from mlim.steps.gathered import gather, reported
from mlim.steps.task_variants import task_variants
from mlim.workspace import Workspace

SEEDS, PICTURES = (0, 1, 2), 60
SEEING, BLIND, OTHER = "lxmert-answer", "lxmert-answer-text", "e2e-vlp-answer"
KINDS = ("binary", "open")
SETTINGS = Settings(samples=200, confidence=0.95, seed=0, margin=0.05)
LXMERT = "{kind: crossed, image: {features: {kind: patch, size: 4}}, width: 16, heads: 2}"
ANSWERS = "system: lxmert, task: answer"
RIGHT = {SEEING: {"binary": 0.9, "open": 0.4}, OTHER: {"binary": 0.6, "open": 0.4}, BLIND: {"binary": 0.5, "open": 0.4}}


@pytest.fixture(scope="module")
def recipe(tiny_recipe) -> Recipe:
    names = {SEEING: "both", OTHER: "both", BLIND: "text"}
    settings = (
        f"systems={{lxmert: {LXMERT}}}",
        "tasks={answer: {steps: 3}}",
        "seeds=[0, 1, 2]",
        "evaluate.bootstrap_samples=200",
        "variants={no-pretraining: {label: no pre-training, pretraining: null}}",
        "main=no-pretraining",
        *(
            f"variants.{name}={{label: {name.upper()}, pretraining: null, {ANSWERS}, modality: {shown}}}"
            for name, shown in names.items()
        ),
    )
    values = {**tiny_recipe.model_dump(mode="json"), "variants": {}}
    return parse(Recipe, override(values, settings), "recipe tiny")


def answered(workspace: Workspace, recipe: Recipe, right: Mapping[str, Mapping[str, float]], seeds=SEEDS) -> None:
    """Scores of a binary and an open question about each picture, right as often as said, as `mlim finetune` leaves."""
    for number, (name, shares) in enumerate(right.items()):
        for seed in seeds:
            draws = np.random.default_rng([number, seed])
            rows = [
                {"question_id": f"{picture}-{kind}", "id": f"picture-{picture}", "split": "test", "kind": kind}
                | {"template": kind, "entailed": [], "given": "yes", "score": float(draws.random() < shares[kind])}
                for picture in range(PICTURES)
                for kind in KINDS
            ]
            folder = workspace.finetuned(name, seed)
            folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(folder / "scores.parquet")
            spent = {"pretraining": None, "seed": seed, "questions_seen": 96}
            write_json(folder / "summary.json", {"settings": recipe.training_key("finetune", name), **spent})
    items = pd.DataFrame(
        {"id": [f"picture-{n}" for n in range(PICTURES)], "component": range(PICTURES), "split": "test"}
    )
    items.to_parquet(workspace.pairs / "items.parquet")


def evidence_of(recipe: Recipe, workspace: Workspace) -> TaskEvidence | None:
    variants = task_variants("answer", recipe, workspace)
    return read_task_evidence(judge_of("answer"), variants, "test", workspace, Resampling(200, 0.95, 0))


def few_pictures(found: TaskEvidence) -> TaskEvidence:
    """As if all questions were about nine pictures."""
    return replace(found, clusters=9)


def verdict(found: TaskEvidence | None, figure: str, first: str = SEEING, second: str = OTHER):
    claim = Claim("key", "short", "A sentence", "here", (TaskVariants("answer", figure, first, second),))
    tasks = {} if found is None else {"answer": found}
    return judge(Evidence(None, {}, {}, tasks=tasks), SETTINGS, [claim])[0]


def test_a_difference_on_the_same_questions_is_judged_over_pictures_and_seeds(recipe, own_workspace):
    answered(own_workspace, recipe, RIGHT)
    found = evidence_of(recipe, own_workspace)
    assert (found.clusters, found.examples, found.variants[SEEING]) == (PICTURES, 2 * PICTURES, SEEDS)
    binary = verdict(found, "accuracy_binary")
    assert binary.verdict == "supported"
    assert verdict(found, "accuracy_binary", OTHER, SEEING).verdict == "contradicted"
    scores = {
        name: [
            pd.read_parquet(own_workspace.finetuned(name, seed) / "scores.parquet").query("kind == 'binary'")["score"]
            for seed in SEEDS
        ]
        for name in (SEEING, OTHER)
    }
    expected = [one.mean() - other.mean() for one, other in zip(scores[SEEING], scores[OTHER], strict=True)]
    assert binary.weakest.by_seed == pytest.approx(expected)


def test_what_nobody_learnt_carries_no_claim(recipe, own_workspace):
    answered(own_workspace, recipe, RIGHT)
    found = evidence_of(recipe, own_workspace)
    open_questions = verdict(found, "accuracy_open")
    assert open_questions.verdict == "not measured"
    assert "not learnt in this budget" in open_questions.missing[0].why
    assert verdict(found, "accuracy").verdict == "supported"
    answered(own_workspace, recipe, {name: RIGHT[name] for name in (SEEING, OTHER)})
    for seed in SEEDS:
        (own_workspace.finetuned(BLIND, seed) / "scores.parquet").unlink()
    blindless = verdict(evidence_of(recipe, own_workspace), "accuracy_binary")
    assert "sees one modality alone was run" in blindless.missing[0].why


def test_what_is_learnt_is_corrected_for_the_number_of_variants_that_might(recipe, own_workspace):
    shares = {SEEING: {"binary": 0.58, "open": 0.4}, BLIND: RIGHT[BLIND]}
    answered(own_workspace, recipe, shares)
    found = evidence_of(recipe, own_workspace)
    alone = found.difference("accuracy_binary", SEEING, BLIND, 0.95)
    assert 0.05 / 4 < alone.p_value < 0.05
    assert not found.why_not_learnt("accuracy_binary", 0.95)
    more = [f"variants.more-{n}={{label: MORE {n}, pretraining: null, {ANSWERS}}}" for n in range(3)]
    wider = parse(Recipe, override(recipe.model_dump(mode="json"), more), "recipe tiny")
    answered(own_workspace, wider, {**shares, **{f"more-{n}": RIGHT[BLIND] for n in range(3)}})
    found = evidence_of(wider, own_workspace)
    assert "not learnt in this budget" in found.why_not_learnt("accuracy_binary", 0.95)


def test_what_cannot_be_compared_is_said(recipe, own_workspace):
    assert verdict(None, "accuracy").missing[0].why == "no variant was fine-tuned to answer"
    answered(own_workspace, recipe, RIGHT)
    found = evidence_of(recipe, own_workspace)
    assert verdict(found, "accuracy", SEEING, "absent").missing[0].why == "variant `absent` was not run"
    assert "fewer than the 10" in verdict(few_pictures(found), "accuracy_binary").missing[0].why
    assert verdict(found, "accuracy_number").missing[0].why == "nothing here is judged by accuracy_number"
    path = own_workspace.finetuned(OTHER, 0) / "summary.json"
    summary = read_json(path)
    write_json(path, {**summary, "questions_seen": 95})
    assert "unequal budgets" in verdict(evidence_of(recipe, own_workspace), "accuracy_binary").missing[0].why
    write_json(path, {**summary, "settings": "others"})
    others = evidence_of(recipe, own_workspace)
    assert others.variants[OTHER] == SEEDS[1:]
    assert others.left_out == (f"variant `{OTHER}`, seed 0: trained with other settings than the recipe's",)


def test_the_page_and_the_document_show_verdicts_beside_what_papers_report(recipe, own_workspace):
    answered(own_workspace, recipe, RIGHT)
    gathered = gather(recipe, own_workspace)
    assert {paper.name for paper in gathered.papers} == {"e2e-vlp", "lxmert", "overview"}
    papers = {paper.source.split(",")[0]: paper for paper in task_papers(reported(recipe), gathered)}
    lxmert = {claim.key: claim for claim in papers["Tan and Bansal"].claims}
    assert lxmert["words-alone-answer"].verdict == "supported"
    assert lxmert["words-alone-answer"].paper == "+0.282"
    words = "Accuracy of “LXMERT-ANSWER” minus that of “LXMERT-ANSWER-TEXT” is +"
    assert words in lxmert["words-alone-answer"].sentence
    assert "120 test questions of 60 independent units" in lxmert["words-alone-answer"].sentence
    assert "not learnt in this budget" in lxmert["words-alone-open"].sentence
    assert "Pre-training on images and texts helps to answer" in papers["Tan and Bansal"].not_run
    blocks = [*paper_blocks(papers["Tan and Bansal"])]
    assert [block.kind for block in blocks] == ["table", "sentences", "sentences", "table"]
    figures = {row[:3]: row[3:] for row in blocks[-1].rows}
    assert figures["LXMERT-ANSWER", "accuracy", "results, VQA"][:2] == ("VQA v2, test-standard", "0.725")

    table = {"title": "Answers", "examples": 120, "examples_name": "questions", "units": 60, "judged_on": "test"}
    table |= {
        "confidence": 0.95,
        "no_interval": None,
        "figures": [{"name": "accuracy", "title": "accuracy"}],
        "rows": {},
    }
    write_json(own_workspace.ablation / "answer.json", table)
    shown = gather(recipe, own_workspace)
    lineage = {"commit": "0123abc", "dirty": False, "data_version": "feed"}
    results = json.loads(json.dumps(collect(reported(recipe), shown, lineage), allow_nan=False))
    text = _part(results)
    assert "| Questions need the image, not the words alone | results, VQA and GQA | supported | +" in text
    assert "| LXMERT-ANSWER | accuracy | results, VQA | VQA v2, test-standard | 0.725 |" in text
