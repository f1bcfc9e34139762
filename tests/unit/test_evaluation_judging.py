"""A verdict for each claim: every branch, from constructed scores and probes."""

import numpy as np
import pandas as pd
import pytest

from mlim.evaluation.evidence import Evidence, VariantScores, families_of, read_evidence
from mlim.evaluation.judging import HARM_KEY, Settings, judge
from mlim.evaluation.power import needed
from mlim.evaluation.resampling import JudgedPairs
from mlim.files import write_json
from mlim.references.claims import Claim, Curves, Harm, Variants
from mlim.steps.experiment_runs import trained_variants
from mlim.steps.task_variants import ExperimentRun
from mlim.workspace import Workspace

SIZE, SEEDS = 2000, (0, 1, 2)
MARGIN = 0.01
SETTINGS = Settings(samples=200, confidence=0.95, seed=0, margin=MARGIN)
BETTER = Claim("better", "A - B", "A is better than B", "here", (Variants("a", "b"),))
EQUAL = Claim("equal", "A - B", "A adds nothing to B", "here", (Variants("a", "b"),), "equivalent")
NO_WORSE = Claim("no-worse", "A - B", "A is no worse than B", "here", (Variants("a", "b"),), "no worse")
TWO = Claim("two", "A", "A is better than B and C", "here", (Variants("a", "b"), Variants("a", "c")))
LABELS = (np.random.default_rng(0).random(SIZE) < 0.5).astype(np.int64)
COMMON = np.random.default_rng(1).normal(size=SIZE)


def variant(skill, noise=0.2, seeds=SEEDS, **kind):
    """Scores that know the labels by `skill`, with errors that variants share, so that small differences are seen."""
    draw = {seed: np.random.default_rng([seed, int(1000 * skill)]).normal(0, noise, SIZE) for seed in seeds}
    return VariantScores({seed: skill * LABELS + COMMON + own for seed, own in draw.items()}, **kind)


def verdict(claim, probe=None, others=(), **variants):
    """The verdict on a claim that is judged alone, or beside `others`."""
    families = np.repeat(np.arange(SIZE // 5), 5)
    pairs = JudgedPairs(LABELS, np.stack([families, families], axis=1))
    return judge(Evidence(pairs, variants, probe or {}), SETTINGS, [claim, *others])[0]


def figure(minus, p_value=0.002, key="random_minus_own"):
    """A probed figure with these differences at rising probabilities."""
    points = [
        {"probability": at, key: {"value": value, "low": value - 0.1, "high": value + 0.1, "p_value": p_value}}
        for at, value in zip(np.linspace(0.1, 0.9, len(minus)), minus, strict=True)
    ]
    return {"skipped": None, "items": 256, "points": points}


def test_a_clear_difference_supports_or_contradicts_by_its_sign():
    found = verdict(BETTER, a=variant(2.0), b=variant(1.5))
    assert found.verdict == "supported"
    assert found.p_value < 0.05
    assert found.weakest.low > 0
    assert found.needed is None
    assert verdict(BETTER, a=variant(1.5), b=variant(2.0)).verdict == "contradicted"


def test_no_difference_is_not_separated_and_says_what_it_would_take():
    found = verdict(BETTER, a=variant(1.5, seeds=(0, 1, 2, 3)), b=variant(1.501, seeds=(1, 2, 3, 4)))
    assert found.verdict == "not separated"
    assert found.weakest.effect.seeds == 3  # those in common
    assert found.weakest.low < 0 < found.weakest.high
    assert found.needed.effect == pytest.approx(abs(found.weakest.value))
    assert found.needed.detectable > found.needed.effect


@pytest.mark.parametrize(
    ("variants", "why"),
    [
        ({}, "variants `a` and `b` were not run"),
        ({"a": variant(1.0)}, "variant `b` was not run"),
        ({"a": variant(1.0, seeds=(0,)), "b": variant(1.0, seeds=(1,))}, "no seed in common"),
        (
            {
                "a": variant(1.0, budgets=(frozenset(), frozenset({64}))),
                "b": variant(1.0, budgets=(frozenset(), frozenset({32}))),
            },
            "unequal budgets",
        ),
    ],
)
def test_what_cannot_be_compared_is_not_measured(variants, why):
    found = verdict(BETTER, **variants)
    assert found.verdict == "not measured"
    assert found.p_value is None
    assert why in found.missing[0].why


def test_the_spread_between_seeds_comes_from_all_variants_of_the_claims():
    alone = verdict(BETTER, a=variant(2.0), b=variant(1.5))
    assert alone.weakest.effect.seeds_freedom == len(SEEDS) - 1
    alike = {"a": variant(2.0, 0.5), "b": variant(1.5, 0.5), "c": variant(1.4, 0.3)}
    with_third = verdict(BETTER, others=[TWO], **alike)
    assert with_third.weakest.effect.pooled == ("a", "b", "c")
    assert with_third.weakest.effect.seeds_freedom == 2 * (len(SEEDS) - 1)
    shorter = verdict(BETTER, others=[TWO], a=variant(2.0), b=variant(1.5), c=variant(1.4, seeds=(0, 1)))
    assert shorter.weakest.effect.seeds_freedom == len(SEEDS) - 1  # a variant without all of the seeds is left out


def test_a_variant_without_pre_training_has_no_budget_there():
    trained = variant(2.0, budgets=(frozenset({96}), frozenset({64})))
    fresh = variant(1.5, budgets=(frozenset(), frozenset({64})))
    assert verdict(BETTER, a=trained, b=fresh).verdict == "supported"
    assert verdict(BETTER, a=fresh, b=trained).verdict == "contradicted"


def test_adding_nothing_has_to_be_shown():
    """A difference inside the margin supports, one beyond contradicts, an unsure one does neither."""
    supported = verdict(EQUAL, a=variant(1.5, 0.02), b=variant(1.502, 0.02))
    assert supported.verdict == "supported"
    assert -MARGIN < supported.weakest.low <= supported.weakest.high < MARGIN
    assert verdict(EQUAL, a=variant(2.5), b=variant(1.5)).verdict == "contradicted"
    assert verdict(EQUAL, a=variant(1.5), b=variant(2.5)).verdict == "contradicted"
    unsure = verdict(EQUAL, a=variant(1.5, 1.5), b=variant(1.501, 1.5))
    assert unsure.verdict == "not separated"
    assert unsure.weakest.low < -MARGIN or unsure.weakest.high > MARGIN
    to_margin = MARGIN - abs(unsure.weakest.value)
    assert unsure.needed == needed(unsure.weakest.effect, SIZE, 2 * SETTINGS.alpha, to_margin)  # one-sided


def test_no_worse_holds_for_better_and_equal_but_not_for_worse():
    assert verdict(NO_WORSE, a=variant(2.0), b=variant(1.5)).verdict == "supported"
    assert verdict(NO_WORSE, a=variant(1.5, 0.02), b=variant(1.502, 0.02)).verdict == "supported"
    assert verdict(NO_WORSE, a=variant(1.5), b=variant(2.0)).verdict == "contradicted"
    assert verdict(NO_WORSE, a=variant(1.5, 1.5), b=variant(1.501, 1.5)).verdict == "not separated"


def test_a_claim_of_two_parts_needs_both_and_falls_with_one():
    assert verdict(TWO, a=variant(2.0), b=variant(1.5), c=variant(1.4)).verdict == "supported"
    fallen = verdict(TWO, a=variant(2.0), b=variant(1.5), c=variant(2.5))
    assert fallen.verdict == "contradicted"
    assert fallen.weakest.part == Variants("a", "c")
    assert fallen.p_value == pytest.approx(2 * fallen.weakest.p_against, abs=0)  # one of two parts
    half = verdict(TWO, a=variant(2.0), b=variant(1.5))
    assert half.verdict == "not measured"
    assert [part.part for part in half.missing] == [Variants("a", "c")]
    assert len(half.measured) == 1
    assert verdict(TWO, a=variant(1.5), b=variant(2.0)).verdict == "contradicted"  # one part is enough for that


def test_the_number_of_claims_counts():
    """A difference that is separated alone need not be among fifty."""
    variants = {"a": variant(1.62, 0.5), "b": variant(1.5, 0.5)}
    alone = verdict(BETTER, **variants)
    assert 0.001 < alone.p_value < 0.05
    assert alone.verdict == "supported"
    others = [Claim(f"other-{number}", "", "", "", (Variants("a", "b"),)) for number in range(49)]
    among = verdict(BETTER, others=others, **variants)
    assert among.p_value == pytest.approx(min(1.0, 50 * alone.p_value))
    assert among.verdict == "not separated"


CURVES = Claim("curves", "", "Own below random", "Figure 2a", (Curves("figure2a", "random", "own"),))


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ({"figure2a": figure([0.3, 0.2, 0.5])}, "supported"),
        ({"figure2a": figure([0.3, -0.2, 0.5])}, "contradicted"),
        ({"figure2a": figure([0.3, 0.2, 0.5], p_value=0.2)}, "not separated"),
        ({"figure2a": {"skipped": "trained on mlm only"}}, "not measured"),
        ({"figure2a": figure([0.3], key="empty_minus_own")}, "not measured"),
        ({}, "not measured"),
    ],
)
def test_curves_have_to_agree_at_every_probability(probe, expected):
    found = verdict(CURVES, probe)
    assert found.verdict == expected
    assert found.needed is None
    if found.measured:
        weakest = min(probe["figure2a"]["points"], key=lambda point: point["random_minus_own"]["value"])
        assert found.weakest.where == weakest["probability"]
        if expected == "contradicted":
            assert found.p_value == pytest.approx(3 * 0.002)  # one of three probabilities


@pytest.mark.parametrize(
    ("value", "p_value", "expected"),
    [(0.1, 0.01, "supported"), (-0.1, 0.01, "contradicted"), (0.1, 0.3, "not separated")],
)
def test_harm_follows_its_sign(value, p_value, expected):
    claim = Claim("harm", "", "", "Figure 2", (Harm(),))
    probe = {HARM_KEY: {"value": value, "low": value - 0.05, "high": value + 0.05, "p_value": p_value}}
    assert verdict(claim, probe).verdict == expected
    assert verdict(claim).verdict == "not measured"


def test_too_few_pairs_leave_variants_unmeasured():
    pairs = JudgedPairs(np.array([1, 0, 0]), None)
    variants = {name: VariantScores({0: np.arange(3.0)}) for name in "ab"}
    (found,) = judge(Evidence(pairs, variants, {}), SETTINGS, [BETTER])
    assert found.verdict == "not measured"
    assert found.missing[0].why == (
        "the test pairs hold 1 matches, fewer than the 10 that an interval needs: no interval and no verdict"
    )


def test_evidence_is_read_from_a_work_folder(tiny_recipe, own_workspace):
    pairs = pd.read_parquet(own_workspace.pairs / "pairs.parquet")
    test = pairs[pairs["split"] == "test"]
    for name, scored in (("recon-mlm-mam", test), ("no-mdo", test.iloc[1:])):
        folder = own_workspace.finetuned(name, 0)
        folder.mkdir(parents=True)
        columns = scored[["item_a", "item_b", "label", "split"]].sample(frac=1, random_state=0)
        scores = columns.assign(modality="both", score=np.linspace(0, 1, len(columns)))
        scores.to_parquet(folder / "scores.parquet")
        settings = tiny_recipe.training_key("finetune", name)
        write_json(folder / "summary.json", {"pairs_seen": 48, "settings": settings})
    write_json(own_workspace.pretrained("recon-mlm-mam", 0) / "summary.json", {"samples_seen": 64})
    found = read_evidence(own_workspace, trained_variants(tiny_recipe, own_workspace))
    assert list(found.variants) == ["recon-mlm-mam"]
    assert found.variants["recon-mlm-mam"].budgets == (frozenset({64}), frozenset({48}))
    assert found.pairs.clusters == 2
    np.testing.assert_array_equal(found.pairs.labels, test.sort_values(["item_a", "item_b"])["label"])
    assert found.left_out == ("variant `no-mdo`, seed 0: scored on other pairs than the present ones",)
    assert found.probe == {}


def test_a_run_from_another_work_folder_is_a_variant_like_any_other(tiny_recipe, own_workspace, tmp_path):
    pairs = pd.read_parquet(own_workspace.pairs / "pairs.parquet")
    test = pairs[pairs["split"] == "test"][["item_a", "item_b", "label", "split"]]
    other = Workspace(tmp_path / "other")
    for place, first in ((own_workspace, 0.0), (other, 0.5)):
        folder = place.finetuned("recon-mlm-mam", 0)
        folder.mkdir(parents=True)
        test.assign(modality="both", score=np.linspace(first, 1, len(test))).to_parquet(folder / "scores.parquet")
        write_json(folder / "summary.json", {"settings": tiny_recipe.training_key("finetune", "recon-mlm-mam")})
    runs = {"segments": ExperimentRun(tiny_recipe, other)}
    found = read_evidence(own_workspace, trained_variants(tiny_recipe, own_workspace, runs))
    assert list(found.variants) == ["recon-mlm-mam", "segments"]
    assert found.variants["segments"].by_seed[0].min() == 0.5


def test_families_come_from_the_components_of_the_items(own_workspace):
    pairs = pd.DataFrame({"item_a": ["item-000", "item-001"], "item_b": ["item-001", "item-004"]})
    assert families_of(pairs, own_workspace).tolist() == [[0, 0], [0, 1]]
    assert families_of(pairs.assign(item_b="unknown"), own_workspace) is None
    (own_workspace.pairs / "items.parquet").unlink()
    assert families_of(pairs, own_workspace) is None


def test_without_pairs_there_is_no_evidence(tiny_recipe, own_workspace):
    (own_workspace.pairs / "pairs.parquet").unlink()
    found = read_evidence(own_workspace, trained_variants(tiny_recipe, own_workspace))
    assert found.pairs is None
    (judged,) = judge(found, SETTINGS, [BETTER])
    assert judged.missing[0].why == "there are no test pairs"


def test_a_figure_that_is_not_separated_says_what_it_would_take():
    errors = {"standard_error": 0.02, "freedom": 10.0, "pairs_error": 0.01, "seeds_freedom": 2.0, "clusters": 60}
    unsure = figure([0.01], p_value=0.6)
    unsure["points"][0]["random_minus_own"] |= {**errors, "by_seed": [0.0, 0.01, 0.02], "seeds_spread": 0.03}
    claim = Claim("curve", "own", "The own picture helps", "here", (Curves("figure2a", "random", "own"),))
    found = verdict(claim, probe={"figure2a": unsure})
    assert found.verdict == "not separated"
    assert found.needed == needed(found.weakest.effect, 256, SETTINGS.alpha)
    older = verdict(claim, probe={"figure2a": figure([0.01], p_value=0.6)})
    assert (older.verdict, older.needed) == ("not separated", None)
