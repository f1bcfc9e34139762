"""The claims on the page and in the document: verdicts in words, what they need, what is not shown."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from report_results import fill

from mlim.errors import InputError
from mlim.evaluation.judging import Judged
from mlim.evaluation.power import power_of
from mlim.files import write_json
from mlim.references import load_reference
from mlim.references.claims import Variants
from mlim.report.claims import claims_section, claims_table, describe_claims, paper_difference, pooled_words, unshown
from mlim.report.kit import formats
from mlim.report.results import RESULTS_FILE, _across, _part, _unshown_part, collect
from mlim.report.scores import variant_scores
from mlim.report.tables import paper_table
from mlim.steps.at_once import trainings_at_once
from mlim.steps.gathered import gather
from mlim.steps.sizing import describe_size, size_seeds
from mlim.workspace import Workspace

LINEAGE = {"commit": "0123abc", "dirty": False, "data_version": "feed"}
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    evaluate = tiny_recipe.evaluate.model_copy(update={"bootstrap_samples": 250, "confidence": 0.95})
    return tiny_recipe.model_copy(update={"seeds": SEEDS, "evaluate": evaluate})


@pytest.fixture(scope="module")
def workspace(tiny_workspace, recipe, tmp_path_factory):
    copy = Workspace(tmp_path_factory.mktemp("claims") / "work")
    shutil.copytree(tiny_workspace.root, copy.root)
    fill(copy, recipe)
    return copy


@pytest.fixture(scope="module")
def gathered(recipe, workspace):
    return gather(recipe, workspace)


@pytest.fixture(scope="module")
def claims(recipe, gathered):
    return {each.key: each for each in describe_claims(recipe, gathered)}


def test_every_claim_has_a_verdict_and_every_verdict_occurs(claims):
    assert list(claims) == [claim.key for claim in load_reference().claims]
    assert claims["pretraining"].verdict == "supported"
    assert claims["recon-mam"].verdict == "supported"
    assert claims["mdo"].verdict == "contradicted"
    assert claims["mam-recon"].verdict == "not separated"
    assert claims["image-for-text"].verdict == "supported"
    assert claims["harm"].verdict == "not separated"
    assert {each.verdict for each in claims.values() if each.in_passing} == {"not measured"}


def test_a_sentence_says_what_how_sure_on_what_and_how_large(claims, recipe):
    sentence = claims["pretraining"].sentence
    assert sentence.startswith(
        "Pre-training helps: supported. PR-AUC of “RECON + MLM + MAM” minus that of “no pre-training” is +"
    )
    for words in (
        "corrected p",
        "3 seeds",
        "612 test pairs of 102 families",
        "catalog tiny;",
        "recipe tiny, 2 layers",
    ):
        assert words in sentence
    assert "margin ±0.010" in claims["itm-added"].sentence
    assert "at masking probability 0.2" in claims["image-for-text"].sentence
    assert f"{recipe.probe.items} test items" in claims["image-for-text"].sentence
    assert "one seed, so the interval does not include the variance" in claims["image-for-text"].sentence


def test_what_was_not_separated_says_what_it_takes(claims):
    sentence = claims["mam-recon"].sentence
    assert "with 80 % power needs" in sentence or "alone would not separate it" in sentence
    assert re.fullmatch(r"[\d,]+|more do not suffice", claims["mam-recon"].needed)
    assert claims["mam-recon"].needed in (*sentence.split(), "more do not suffice")
    assert "power" not in claims["pretraining"].sentence
    assert claims["pretraining"].needed == formats.MISSING


def effect_power(effect, difference, seeds):
    """Just below the power that so many seeds have."""
    return power_of(effect, difference, 0.05, seeds) - 1e-9


def test_a_seed_plan_for_a_difference_trains_nothing_and_agrees_with_the_claims(recipe, workspace, gathered):
    before = sorted(path for path in workspace.root.rglob("*"))
    plan = size_seeds(recipe, workspace, difference=0.05, power=0.8)
    assert sorted(path for path in workspace.root.rglob("*")) == before
    assert plan["comparison"] == ["recon-mlm-mam", "no-pretraining"]
    (claim,) = [judged for judged in gathered.claims if judged.claim.key == "pretraining"]
    effect = claim.weakest.effect
    assert plan["spread_measured"]
    assert (plan["pairs_error"], plan["spread"]) == pytest.approx((effect.pairs_error, effect.seeds_spread))
    surer = size_seeds(recipe, workspace, difference=0.05, power=effect_power(effect, 0.05, seeds=6))
    assert plan["seeds"] <= surer["seeds"] == 6
    a_seed = len(gathered.trainings) // len(SEEDS)
    assert surer["trainings"] == a_seed * (6 - len(SEEDS))
    assert surer["seconds"] == pytest.approx(93.0 * surer["trainings"] / trainings_at_once(recipe))
    assert size_seeds(recipe, workspace, difference=0.001)["seeds"] is None  # the pairs alone bring more
    text = describe_size(plan, "mlim ablate")
    assert text.endswith(f"mlim ablate --seeds {plan['seeds']}")
    assert "measured here" in text


def test_a_seed_plan_says_what_it_assumes_and_refuses_what_is_none(recipe, own_workspace):
    plan = size_seeds(recipe, own_workspace, 0.02)
    assert (plan["spread_measured"], plan["seconds"], plan["pairs_error"]) == (False, None, None)
    assert "assumed: not measured here yet" in describe_size(plan, "mlim ablate")
    for difference, power in ((0.0, 0.8), (0.02, 1.0)):
        with pytest.raises(InputError, match="--difference is above 0"):
            size_seeds(recipe, own_workspace, difference, power)
    alone = recipe.model_copy(update={"variants": {recipe.main: recipe.main_variant}})
    with pytest.raises(InputError, match="nothing to compare"):
        size_seeds(alone, own_workspace, 0.02)


def test_a_claim_that_was_not_measured_says_what_is_missing(claims):
    assert claims["shared-mask"].sentence.endswith("not measured, variant `separate-masks` was not run.")
    assert claims["shared-mask"].difference == formats.MISSING


def test_the_papers_difference_comes_from_the_table_that_holds_both(recipe):
    assert paper_difference(recipe, load_reference(), Variants("recon-mlm-mam", "itm-mlm-mam")) == pytest.approx(0.029)
    assert paper_difference(recipe, load_reference(), Variants("recon-mlm-mam", "no-mdo")) == pytest.approx(0.02)
    assert paper_difference(recipe, load_reference(), Variants("recon-mlm-mam", "no-pretraining")) is None
    assert paper_difference(recipe, load_reference(), Variants("recon-mlm-mam", "unknown")) is None


def test_the_section_has_a_plot_a_table_and_sentences(recipe, gathered):
    section = claims_section(recipe, gathered)
    assert [block.kind for block in section.blocks] == ["plot", "plot", "table", "sentences"]
    table, sentences = section.blocks[2:]
    assert len(table.rows) == len(table.tones) == len(sentences.sentences) - 1  # the last says what is pooled
    assert section.lead.startswith(f"Of {len(load_reference().claims)} claims, ")


def test_the_page_says_which_variants_share_their_spread_between_seeds(recipe, gathered, workspace):
    (sentence,) = pooled_words(recipe, gathered)
    assert "Bartlett's statistic at a level of 20.0 %" in sentence
    for variant in ("RECON + MLM + MAM", "no pre-training"):
        assert sentence.count(f"“{variant}”") == 1
    one = recipe.model_copy(update={"seeds": (0,)})
    assert pooled_words(one, gather(one, workspace)) == []


def test_the_colour_of_a_verdict_is_that_of_its_claim(claims):
    table = claims_table([claims["pretraining"], claims["mdo"], claims["mam-recon"]])
    assert table.tones == ("good", "bad", "open")
    assert [row[table.text_columns - 1] for row in table.rows] == ["supported", "contradicted", "not separated"]


def test_what_is_not_shown_is_named(recipe, gathered, workspace):
    sentences = unshown(recipe, gathered)
    assert any("BERT-large" in sentence for sentence in sentences)
    probed_once = replace(gathered, probe={**gathered.probe, "seeds": [0]})
    assert any("one pre-trained model" in sentence for sentence in unshown(recipe, probed_once))
    (not_run,) = (sentence for sentence in sentences if "were not run" in sentence)
    assert not_run.count(" (`") == 6, "six claims, each with the variants that it lacks"
    assert not any("seed only" in sentence for sentence in sentences)
    one = recipe.model_copy(update={"seeds": (0,)})
    assert any("one seed only" in sentence for sentence in unshown(one, gather(one, workspace)))


def test_nothing_trained_is_said_in_a_sentence(recipe, own_workspace):
    gathered = gather(recipe, own_workspace)
    assert "run `mlim ablate` and `mlim probe`" in claims_section(recipe, gathered).missing
    assert {"No variant has been trained and scored.", "Figure 2 was not measured."} <= set(unshown(recipe, gathered))
    assert all(isinstance(judged, Judged) and judged.verdict == "not measured" for judged in gathered.claims)


def test_the_document_has_claims_and_what_is_not_shown(recipe, gathered):
    results = json.loads(json.dumps(collect(recipe, gathered, LINEAGE), allow_nan=False))
    text = _part(results)
    assert "| Pre-training helps | the whole paper | supported | +" in text
    assert "\n- Pre-training helps: supported. " in text
    assert "What is not shown:" in text
    assert "- The variants were not run that these claims are about: One [MASK] vector" in text
    assert "(`separate-masks`)" in text
    assert RESULTS_FILE.endswith(".json")


def test_variants_show_what_their_seeds_differ_by(recipe, gathered):
    figures = gathered.by_seed["recon-mlm-mam"]
    assert len(figures) == len(SEEDS)
    score = variant_scores(recipe, gathered)["recon-mlm-mam"]
    assert score.spread == pytest.approx(np.std(figures, ddof=1))
    shown = formats.spread(score.spread, 3)
    assert paper_table(recipe, gathered, gathered.reference.tables[0]).rows[0][2] == shown
    page = _part(collect(recipe, gathered, LINEAGE))
    assert f"| RECON + MLM + MAM | 0.822 | 0.804 to 0.840 | {shown} |" in page


def test_tables_say_what_a_model_has_seen_beside_the_catalog(recipe, gathered):
    tables = gathered.reference.tables
    assert "also saw" not in paper_table(recipe, gathered, tables[0]).header
    assert "also saw" not in _part(collect(recipe, gathered, LINEAGE))
    embedder = recipe.model.embedder.model_copy(update={"features": "lite0"})
    more = recipe.model_copy(update={"model": recipe.model.model_copy(update={"embedder": embedder})})
    shown = paper_table(more, gathered, tables[0])
    assert shown.header[:2] == ("model", "also saw")
    assert {row[1] for row in shown.rows} == {"ImageNet"}
    assert {len(row) for row in shown.rows} == {len(shown.header)}
    lines = _part(json.loads(json.dumps(collect(more, gathered, LINEAGE)))).splitlines()
    cells = {found[1]: found[2] for line in lines if len(found := [cell.strip() for cell in line.split("|")]) > 2}
    assert cells["RECON + MLM + MAM"] == cells["stack"] == "ImageNet"
    assert cells["stack without matcher"] == cells["Gradient-boosted trees"] == formats.MISSING


def test_the_effects_of_several_data_sets_stand_side_by_side(recipe, gathered, tmp_path):
    results = json.loads(json.dumps(collect(recipe, gathered, LINEAGE)))
    other = {**results, "catalog": "catalogs/hm_fashion.yaml", "claims": results["claims"][:1]}
    (text,) = _across([results, other, {**results, "claims": []}], tmp_path / "results.md")
    assert "(results-effects.svg)" in text
    alone = _across([results], tmp_path / "alone.md")
    assert alone
    both, one = (float(_height(tmp_path / f"{name}-effects.svg")) for name in ("results", "alone"))
    assert both > one  # one line more
    assert _across([{**results, "claims": []}], tmp_path / "nothing.md") == []


def _height(path):
    return re.search(r'height="([\d.]+)pt"', path.read_text()).group(1)


def test_absent_data_sets_are_named():
    real = {"catalog": "catalogs/hm_fashion.yaml", "ceilings": None}
    some = _unshown_part([real, {"catalog": "x.yaml", "ceilings": {"both": 1.0}}])
    assert "ABO" in some
    assert "hm_fashion" not in some
    assert "embedded" not in some


def test_further_fine_tunings_count_once_every_seed_has_them(recipe, gathered, workspace, tmp_path):
    twice = recipe.model_copy(update={"finetunings": 2})
    copy = Workspace(tmp_path / "work")
    shutil.copytree(workspace.root, copy.root)
    variant, claim = "recon-mlm-mam", "pretraining"
    for seed in SEEDS[:2]:
        shutil.copytree(copy.finetuned("no-pretraining", seed), copy.finetuned(variant, seed, 1))
        settings = {"settings": twice.training_key("finetune", variant)}
        write_json(copy.finetuned(variant, seed, 1) / "summary.json", settings)
    assert gather(twice, copy).by_seed[variant] == gathered.by_seed[variant]  # a seed lacks its second one
    shutil.copytree(copy.finetuned(variant, 0, 1), copy.finetuned(variant, 2, 1))
    found = gather(twice, copy)
    other = gathered.by_seed["no-pretraining"]
    means = [(one + more) / 2 for one, more in zip(gathered.by_seed[variant], (*other[:2], other[0]), strict=True)]
    assert found.by_seed[variant] == pytest.approx(means)
    (judged,) = [judged for judged in found.claims if judged.claim.key == claim]
    assert judged.weakest.value == pytest.approx(np.mean(means) - np.mean(other))
    assert "[" in describe_claims(twice, found)[0].sentence
