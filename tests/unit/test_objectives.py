"""What is masked, exchanged and counted, and what the losses are made of."""

from collections import Counter

import pytest
import torch

from mlim.data.attributes import DecidingValues
from mlim.data.batches import ItemBatch, PairBatch
from mlim.data.collate import ItemCollator, Pair, PairCollator
from mlim.data.tokenize import TextTokenizer
from mlim.losses import UNKNOWN
from mlim.masking import MaskMode
from mlim.models.hub import build_mlim
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.recipe import Pretraining, Recipe
from mlim.recipe.tasks import ReconTask
from mlim.shards.items import ItemStore
from mlim.tasks.build import pretrain_objective
from mlim.tasks.match import MatchObjective, swap_sides
from mlim.tasks.pretrain.objective import PreparedItems, PretrainObjective
from mlim.tasks.pretrain.passes import swap_pictures

MAM = Pretraining(losses=("mlm", "recon"), masking="mam")
WITH_ITM = Pretraining(losses=("mlm", "recon", "itm"), masking="naive")
SOME_PICTURES = Pretraining(losses=("mlm",), masking="mam", tasks=(ReconTask(share=0.5),))
IDS = [f"item-{number:03d}" for number in range(8)]


def objective_of(model: Mlim, recipe: Recipe, pretraining: Pretraining, seed: int) -> PretrainObjective:
    return pretrain_objective(model, recipe.pretrain, pretraining, recipe.text.limit, seed)


def matching_of(model: Mlim, recipe: Recipe, seed: int) -> MatchObjective:
    return MatchObjective(Matcher.from_mlim(model, 0.0, seed=0), recipe.finetune, recipe.main_variant, seed)


@pytest.fixture(scope="module")
def store(tiny_workspace):
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


@pytest.fixture(scope="module")
def tokenizer(store, tiny_recipe):
    return TextTokenizer.learn((store.text(item) for item in store.ids), tiny_recipe.text.vocabulary_size)


@pytest.fixture(scope="module")
def model(tiny_recipe, tokenizer):
    return build_mlim(tiny_recipe, tokenizer, seed=0).eval()


@pytest.fixture(scope="module")
def batch(store, tokenizer, tiny_recipe) -> ItemBatch:
    return ItemCollator(store, tokenizer, tiny_recipe.text.max_tokens)(IDS)


@pytest.fixture(scope="module")
def pairs(store, tokenizer, tiny_recipe) -> PairBatch:
    collate = PairCollator(store, tokenizer, tiny_recipe.text.max_tokens)
    return collate([Pair(a, b, number % 2) for number, (a, b) in enumerate(zip(IDS[:4], IDS[4:], strict=True))])


def test_a_batch_is_padded_and_its_special_tokens_are_never_maskable(batch, tokenizer):
    assert batch.input_ids.shape == batch.text_attention.shape == batch.maskable.shape
    assert (batch.input_ids[:, 0] == tokenizer.cls).all()
    assert (batch.input_ids == tokenizer.sep).sum(dim=1).tolist() == [1] * len(IDS)
    assert not batch.maskable[~batch.text_attention].any()
    assert batch.maskable.sum() == batch.text_attention.sum() - 2 * len(IDS)
    pixels = batch.with_floats().pixels
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_a_heavy_image_batch_has_no_masked_text_and_an_mlm_loss_of_zero(model, tiny_recipe, batch):
    objective = objective_of(model, tiny_recipe, MAM, seed=0)
    prepared = objective.prepare(batch, 0, mode=MaskMode.HEAVY_IMAGE)
    terms = {term.name: term.term for term in objective.losses(prepared).terms}
    assert prepared.counts["mlm"] == 0
    assert terms["mlm"].total.item() == terms["mlm"].mean.item() == 0
    assert terms["recon"].mean.item() > 0


def test_counts_are_known_before_the_forward_pass(model, tiny_recipe, batch):
    objective = objective_of(model, tiny_recipe, WITH_ITM, seed=0)
    for draw in range(5):
        prepared = objective.prepare(batch, draw)
        for name, term, _ in objective.losses(prepared).terms:
            assert term.count.item() == prepared.counts[name]


def test_masks_depend_on_seed_and_draw_only(model, tiny_recipe, batch):
    first = objective_of(model, tiny_recipe, MAM, seed=3).prepare(batch, 7)
    again = objective_of(model, tiny_recipe, MAM, seed=3).prepare(batch, 7)
    other = objective_of(model, tiny_recipe, MAM, seed=3).prepare(batch, 8)
    assert first.masks.mode == again.masks.mode
    assert torch.equal(first.masks.text, again.masks.text)
    assert torch.equal(first.masks.image, again.masks.image)
    assert not (torch.equal(first.masks.text, other.masks.text) and torch.equal(first.masks.image, other.masks.image))


def test_mam_meets_its_three_modes_alike_and_naive_only_its_own(model, tiny_recipe, batch):
    objective = objective_of(model, tiny_recipe, MAM, seed=0)
    modes = Counter(objective.prepare(batch, draw).masks.mode for draw in range(300))
    assert set(modes) == set(objective.modes)
    assert min(modes.values()) > 70
    naive = objective_of(model, tiny_recipe, WITH_ITM, seed=0)
    assert {naive.prepare(batch, draw).masks.mode for draw in range(5)} == {MaskMode.NAIVE}


def test_exchanged_items_count_for_itm_alone(model, tiny_recipe, batch):
    prepared = objective_of(model, tiny_recipe, WITH_ITM, seed=0).prepare(batch, 0)
    own = prepared.own
    side = tiny_recipe.image.size
    assert 0 < own.sum() < len(IDS)
    assert prepared.counts == {
        "mlm": int(prepared.masks.text[own].sum()),
        "recon": int(own.sum()) * side * side,
        "itm": len(IDS),
    }
    assert set((prepared.targets["mlm"].wanted // batch.input_ids.shape[1]).tolist()) <= set(
        own.nonzero().flatten().tolist()
    )
    assert torch.equal(prepared.batch.pixels[own], batch.pixels[own])


def test_an_exchanged_picture_is_always_another_items(batch):
    shown, own = swap_pictures(batch, torch.ones(len(IDS), dtype=torch.bool), 0)
    assert not own.any()
    assert all(not torch.equal(a, b) for a, b in zip(shown.pixels, batch.pixels, strict=True))
    assert torch.equal(shown.pixels[0::2], batch.pixels[1::2])
    assert torch.equal(shown.pixels[1::2], batch.pixels[0::2])


def test_half_of_the_pictures_are_exchanged(model, tiny_recipe, batch):
    objective = objective_of(model, tiny_recipe, WITH_ITM, seed=0)
    kept = [objective.prepare(batch, step).own.float().mean().item() for step in range(300)]
    assert sum(kept) / len(kept) == pytest.approx(1 - tiny_recipe.pretrain.itm_swap, abs=0.05)


def test_the_same_item_twice_in_a_row_is_no_other_item(batch):
    twins = batch._replace(ids=["twin", "twin"], pixels=batch.pixels[:2])
    _, own = swap_pictures(twins, torch.ones(2, dtype=torch.bool), 0)
    assert own.all()


@pytest.mark.parametrize("pretraining", [MAM, WITH_ITM, SOME_PICTURES])
def test_masks_and_exchanges_do_not_depend_on_how_a_step_is_cut(model, tiny_recipe, batch, pretraining):
    objective = objective_of(model, tiny_recipe, pretraining, seed=5)
    for step in range(6):
        whole = objective.prepare(batch, step)
        parts = [objective.prepare(_part(batch, slice(start, start + 2)), step, start) for start in range(0, 8, 2)]
        assert {part.masks.mode for part in parts} == {whole.masks.mode}
        assert torch.equal(torch.cat([part.masks.text for part in parts]), whole.masks.text)
        assert torch.equal(torch.cat([part.masks.image for part in parts]), whole.masks.image)
        assert torch.equal(torch.cat([part.own for part in parts]), whole.own)
        assert torch.equal(torch.cat([part.batch.pixels for part in parts]), whole.batch.pixels)
        assert {name: sum(part.counts[name] for part in parts) for name in whole.counts} == whole.counts
        assert sum(part.tokens for part in parts) == whole.tokens


def test_orders_and_modality_do_not_depend_on_how_a_step_is_cut(model, tiny_recipe, pairs):
    objective = MatchObjective(
        Matcher.from_mlim(model, 0.0, seed=0), tiny_recipe.finetune, tiny_recipe.main_variant, seed=5
    )
    for step in range(6):
        whole = objective.prepare(pairs, step)
        parts = [objective.prepare(_part(pairs, slice(start, start + 1)), step, start) for start in range(4)]
        assert {part.modality for part in parts} == {whole.modality}
        assert [name for part in parts for name in part.batch.item_a] == whole.batch.item_a
        assert sum(part.tokens for part in parts) == whole.tokens


def _part(batch, part: slice):
    """Some examples of a batch of either kind."""

    def of(field):
        if field is None:
            return None
        return type(field)(*(side[part] for side in field)) if hasattr(field, "_fields") else field[part]

    return type(batch)(*map(of, batch))


def test_micro_batches_weigh_by_their_targets(model, tiny_recipe, batch):
    """Two micro-batches divided by the counts of both give the gradient of one batch of both."""
    objective = objective_of(model, tiny_recipe, MAM, seed=0)
    whole = objective.prepare(batch, 0, mode=MaskMode.LIGHT)
    gradients = []
    for parts in ([slice(0, 8)], [slice(0, 2), slice(2, 8)]):
        model.zero_grad()
        for part in parts:
            sliced = objective.prepare(_part(batch, part), 0, part.start, mode=MaskMode.LIGHT)
            terms = objective.losses(sliced).terms
            torch.stack([term.total / whole.counts[name] for name, term, _ in terms]).sum().backward()
        gradients.append(model.backbone.word_embeddings.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5)


def test_pictures_of_a_share_estimate_the_loss_of_all_without_bias(model, tiny_recipe, batch):
    """Every picture is as likely, alone or with others; validation reconstructs all; a step may have none."""
    objective = objective_of(model, tiny_recipe, SOME_PICTURES, seed=0)
    per_picture = batch.pixels.shape[-1] ** 2
    seen, numbers = Counter[int](), []
    for step in range(400):
        wanted = objective.prepare(batch, step).targets["recon"].wanted
        numbers.append(len(wanted))
        seen.update(wanted.tolist())
    assert sum(numbers) / len(numbers) == pytest.approx(len(IDS) / 2, abs=0.3)
    assert all(160 < seen[row] < 240 for row in range(len(IDS)))
    validated = objective.prepare(batch, 0, mode=MaskMode.HEAVY_IMAGE)
    assert validated.counts["recon"] == len(IDS) * per_picture
    none = next(step for step in range(4000) if objective.prepare(batch, step).counts["recon"] == 0)
    (term,) = [term for name, term, _ in objective.losses(objective.prepare(batch, none)).terms if name == "recon"]
    assert term.total.item() == term.count.item() == 0


def test_modality_dropout_follows_its_probabilities(tiny_recipe, model, pairs):
    matcher = Matcher.from_mlim(model, 0.0, seed=0)
    variant = tiny_recipe.main_variant
    objective = MatchObjective(matcher, tiny_recipe.finetune, variant, seed=0)
    shown = Counter(objective.prepare(pairs, draw).modality for draw in range(400))
    expected = {"text": tiny_recipe.finetune.mdo_text_only, "image": tiny_recipe.finetune.mdo_image_only}
    for modality, share in expected.items():
        assert shown[modality] / 400 == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("modality", ["both", "text", "image"])
def test_without_modality_dropout_a_variant_shows_what_it_is_judged_by(tiny_recipe, model, pairs, modality):
    matcher = Matcher.from_mlim(model, 0.0, seed=0)
    variant = tiny_recipe.main_variant.model_copy(update={"mdo": False, "modality": modality})
    objective = MatchObjective(matcher, tiny_recipe.finetune, variant, seed=0)
    assert {objective.prepare(pairs, draw).modality for draw in range(10)} == {modality}
    (term,) = objective.losses(objective.prepare(pairs, 0)).terms
    assert term.term.count.item() == len(pairs.labels)


@pytest.mark.parametrize("read_out", ["cls", "joint", "separate"])
def test_items_also_tell_what_decides(tiny_recipe, model, pairs, read_out):
    """A known class of each item counts once, in the order in which the items are shown, and trains the backbone."""
    values = DecidingValues({name: [int(name == pairs.item_a[0])] for name in pairs.item_a}, [2])
    settings = tiny_recipe.finetune.model_copy(update={"attribute_weight": 0.5})
    recipe = tiny_recipe.model_copy(update={"finetune": settings})
    matcher = Matcher.from_mlim(model, 0.0, 0, read_out, values.counts)
    objective = MatchObjective(matcher, recipe.finetune, recipe.main_variant, 0, values)
    prepared = next(found for step in range(40) if (found := objective.prepare(pairs, step)).modality == "both")
    known = [name in pairs.item_a for name in prepared.ids]
    assert prepared.counts == {"match": len(pairs.labels), "attribute": sum(known)}
    assert prepared.attributes.squeeze(1).tolist() == [
        int(name == pairs.item_a[0]) if is_known else UNKNOWN
        for name, is_known in zip(prepared.ids, known, strict=True)
    ]
    match, attribute = objective.losses(prepared).terms
    assert (match.weight, attribute.weight) == (1.0, 0.5)
    attribute.term.mean.backward()
    assert matcher.backbone.word_embeddings.weight.grad.abs().sum() > 0
    assert matcher.head.score.weight.grad is None


def test_turning_pairs_around_twice_changes_nothing(pairs):
    some = torch.tensor([True, False, True, False])
    once = swap_sides(pairs, some)
    assert once.item_a == [pairs.item_b[0], pairs.item_a[1], pairs.item_b[2], pairs.item_a[3]]
    assert torch.equal(once.first.pixels[0], pairs.second.pixels[0])
    assert torch.equal(once.first.tokens[1], pairs.first.tokens[1])
    assert torch.equal(once.labels, pairs.labels)
    twice = swap_sides(once, some)
    assert twice.item_a == pairs.item_a
    assert all(torch.equal(a, b) for a, b in zip(twice.first, pairs.first, strict=True))


def test_training_pairs_are_shown_in_either_order(tiny_recipe, model, pairs):
    objective = MatchObjective(
        Matcher.from_mlim(model, 0.0, seed=0), tiny_recipe.finetune, tiny_recipe.main_variant, seed=0
    )
    orders = {objective.prepare(pairs, draw).batch.item_a[0] for draw in range(20)}
    assert orders == {pairs.item_a[0], pairs.item_b[0]}


@torch.no_grad()
def totals(objective: PretrainObjective, prepared: PreparedItems) -> dict[str, float]:
    return {name: float(term.total) for name, term, _ in objective.losses(prepared).terms}


def test_the_visible_packing_is_that_of_the_plan(model, batch, tiny_recipe):
    """The losses are those of a model that packs what is visible itself."""
    late = Mlim.random(model.config.model_copy(update={"visible_blocks": 1}), seed=0).eval()
    objective = objective_of(late, tiny_recipe, MAM, seed=0)
    for step in range(6):
        prepared = objective.prepare(batch, step)
        assert prepared.packing.visible is not None
        assert late.tokens(prepared.packing.visible) == prepared.tokens - int(
            prepared.masks.text.sum() + prepared.masks.image.sum()
        )
        alone = prepared._replace(packing=prepared.packing._replace(visible=None))
        assert totals(objective, prepared) == totals(objective, alone)
