"""LXMERT: its encoders and crossing blocks, its regions, and the tasks about hidden regions."""

import pytest
import torch
from torch.nn import functional
from transformers import LxmertConfig, LxmertModel

from mlim.config import override, parse
from mlim.data.batches import ItemBatch
from mlim.data.objects import ObjectNames, Region, collate_objects
from mlim.errors import InputError
from mlim.losses import UNKNOWN
from mlim.models.crossed import Crossed, CrossedConfig
from mlim.models.images.build import build_image_side
from mlim.models.images.regions import grid_boxes, pooling
from mlim.models.initialise import initialise
from mlim.models.system import Shown
from mlim.models.systems import load_system
from mlim.recipe import Recipe
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.image_sides import CnnSide, PatchSide
from mlim.recipe.pretrain import MaskingConfig, PretrainConfig, Pretraining
from mlim.recipe.tasks import loss_titles
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.regions import labels_of

WIDTH, SIZE, EDGE = 16, 16, 4
NAMES = ObjectNames(labels=("mug", "bag", "hat"))
SHAPE = {"image": {"kind": "regions", "features": {"kind": "patch", "size": EDGE}}, "width": WIDTH, "heads": 2}
TASKS = ({"task": "region-feature"}, {"task": "region-label"})


def built(names: ObjectNames = NAMES, **shape) -> Crossed:
    system = CrossedSystem.model_validate({**SHAPE, "dropout": 0.0, **shape})
    config = CrossedConfig(vocabulary_size=30, text_positions=12, image_size=SIZE, shape=system, objects=names)
    return Crossed.planned(config, 0).build().eval()


def shown(seed: int = 0, lengths=(7, 4, 2, 5)) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 30, attention.shape, generator=generator)
    ids[:, 0] = 2
    for row, length in enumerate(lengths):
        ids[row, length - 1] = 3
    return Shown(ids * attention, attention, torch.rand(len(lengths), 3, SIZE, SIZE, generator=generator))


class Annotations:
    """Each picture has a mug on its left half; the first one a hat over its right half, too."""

    names = NAMES

    def regions(self, item: str) -> list[Region]:
        mug = Region((0.0, 0.0, 0.52, 1.0), 0)
        return [mug, Region((0.45, 0.0, 1.0, 1.0), 2)] if item == "a" else [mug]

    def captions(self, item: str) -> list[str]:
        return []


def batch() -> ItemBatch:
    item = shown(lengths=(7, 6, 7, 5))
    maskable, pixels = item.text_attention & (item.input_ids >= 5), (255 * item.pixels).byte()
    objects = collate_objects(Annotations(), list("abcd"))
    return ItemBatch(item.input_ids, item.text_attention, maskable, pixels, list("abcd"), objects)


def objective_of(model: Crossed, tasks=TASKS, **masking):
    pretraining = Pretraining(losses=("mlm", "itm"), masking="text", tasks=tasks)
    return pretrain_objective(model, PretrainConfig(masking=MaskingConfig(**masking)), pretraining, 10, 0)


def test_outputs_equal_the_librarys_at_the_same_random_weights():
    torch.manual_seed(0)
    theirs = LxmertModel(
        LxmertConfig(
            vocab_size=30, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=4 * WIDTH, l_layers=2,
            r_layers=1, x_layers=2, visual_feat_dim=3 * EDGE**2, max_position_embeddings=12, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, initializer_range=0.3,
        )
    ).eval()  # fmt: skip
    model = built()
    copy_lxmert(theirs, model)
    item = shown()
    with torch.no_grad():
        features, boxes = model.regions.features(item.pixels, model.region_boxes), model.region_boxes
        wanted = theirs(
            item.input_ids,
            visual_feats=features,
            visual_pos=boxes.expand(len(features), -1, -1),
            attention_mask=item.text_attention.float(),
        )
        found = model.fuse(item)
        pooled = torch.tanh(model.itm_head.dense(found.text[:, 0]))
    assert torch.allclose(found.text[item.text_attention], wanted.language_output[item.text_attention], atol=1e-5)
    assert torch.allclose(found.patches, wanted.vision_output, atol=1e-5)
    assert torch.allclose(pooled, wanted.pooled_output, atol=1e-5)
    assert torch.equal(found.features, features)


def copy_lxmert(theirs: LxmertModel, model: Crossed) -> None:
    words, seen = theirs.embeddings, theirs.encoder.visn_fc
    own = model.regions
    with torch.no_grad():
        model.word_embeddings.weight.copy_(words.word_embeddings.weight)
        model.text_positions.weight.copy_(words.position_embeddings.weight + words.token_type_embeddings.weight[0])
        own.side.projection.weight.copy_(seen.visn_fc.weight.view_as(own.side.projection.weight))
        own.side.projection.bias.copy_(seen.visn_fc.bias)
    for ours, given in (
        *((model.norm, words.LayerNorm), (own.feature_norm, seen.visn_layer_norm), (own.box, seen.box_fc)),
        *((own.box_norm, seen.box_layer_norm), (model.itm_head.dense, theirs.pooler.dense)),
    ):
        ours.load_state_dict(given.state_dict())
    encoder = theirs.encoder
    for blocks, layers in ((model.text_encoder, encoder.layer), (model.region_encoder, encoder.r_layers)):
        for block, layer in zip(blocks.levels(), layers, strict=True):
            copy_block(block, layer.attention, layer.intermediate, layer.output)
    for block, layer in zip(model.crossing, encoder.x_layers, strict=True):
        copy_attention(block.cross_attention, block.cross_norm, layer.visual_attention.att, layer.visual_attention)
        copy_block(block.text, layer.lang_self_att, layer.lang_inter, layer.lang_output)
        copy_block(block.regions, layer.visn_self_att, layer.visn_inter, layer.visn_output)
    for module in (*model.modules(), *theirs.modules()):
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12


def copy_attention(own, norm, heads, layer) -> None:
    for name in ("query", "key", "value"):
        getattr(own, name).load_state_dict(getattr(heads, name).state_dict())
    own.output.load_state_dict(layer.output.dense.state_dict())
    norm.load_state_dict(layer.output.LayerNorm.state_dict())


def copy_block(own, attention, inner, output) -> None:
    copy_attention(own.self_attention, own.self_norm, attention.self, attention)
    own.fc1.load_state_dict(inner.dense.state_dict())
    own.fc2.load_state_dict(output.dense.state_dict())
    own.output_norm.load_state_dict(output.LayerNorm.state_dict())


def test_regions_are_bilinear_means_of_the_grid():
    assert grid_boxes(2).tolist()[1:3] == [[0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1]]
    grid = torch.rand(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    weights = pooling(torch.cat([grid_boxes(2), torch.tensor([[0.1, 0.3, 0.45, 0.9]])]), 4)
    assert torch.allclose(weights.sum(dim=1), torch.ones(6))
    means = weights @ grid[0].flatten(1).T
    assert torch.allclose(means[0], functional.interpolate(grid, 8, mode="bilinear")[0, :, :4, :4].mean(dim=(1, 2)))
    assert torch.allclose(means[4], grid[0].mean(dim=(1, 2)))  # the whole picture: a sample in each cell
    x, y = (2 * torch.linspace(low + size / 8, low + 7 * size / 8, 4) - 1 for low, size in ((0.1, 0.35), (0.3, 0.6)))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    sampled = functional.grid_sample(grid, places, padding_mode="border", align_corners=False)
    assert torch.allclose(means[5], sampled[0].mean(dim=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("config", [PatchSide(size=4), CnnSide(stem=8, depths=(1,), widths=(8,))])
def test_a_projected_grid_is_what_an_image_side_gives(config):
    side = build_image_side(config, WIDTH)
    initialise(side, WIDTH, torch.Generator().manual_seed(0))
    pixels = shown().pixels
    with torch.no_grad():
        grid = side.grid(pixels)
        assert grid.shape == (4, side.feature_size, 4, 4)
        assert torch.allclose(side.project(grid.flatten(2).transpose(1, 2)), side(pixels), atol=1e-5)


def test_hidden_regions_and_padding_influence_nothing():
    model, item = built(), shown()
    hides = torch.zeros(4, model.patches, dtype=torch.bool)
    hides[:, [0, 9]] = True  # the first square, and the whole picture, which contains it
    other = item.pixels.clone()
    other[..., :EDGE, :EDGE] = 1 - other[..., :EDGE, :EDGE]  # seen by no other square
    longer = [functional.pad(part, (0, 3)) for part in (item.input_ids, item.text_attention)]
    with torch.no_grad():
        first, second = (model.fuse(item._replace(pixels=pixels, image_mask=hides)) for pixels in (item.pixels, other))
        assert torch.equal(first.text, second.text)
        assert not torch.equal(first.features, second.features)
        assert not torch.equal(model.fuse(item).text, model.fuse(item._replace(pixels=other)).text)
        for modality in ("both", "text", "image"):
            found = model.encode_items(item, modality)
            assert found.shape == (4, model.item_parts * model.item_part_width)
            again = model.encode_items(Shown(*longer, item.pixels), modality)
            assert torch.allclose(found, again, atol=1e-5)
        assert not model.encode_items(item, "text")[:, 2 * WIDTH :].any()


def test_a_region_has_the_label_of_the_object_that_covers_most_of_it():
    objects = batch().objects
    labels = labels_of(grid_boxes(3), objects)
    assert labels[0].tolist() == [0, 2, 2] * 3 + [2]  # the hat covers more of the middle
    assert labels[1].tolist() == [0, 0, UNKNOWN] * 3 + [0]
    nothing = objects._replace(boxes=torch.zeros_like(objects.boxes), labels=torch.full_like(objects.labels, UNKNOWN))
    assert (labels_of(grid_boxes(3), nothing) == UNKNOWN).all()


def test_tasks_about_regions_change_no_number_of_the_others():
    model = built()
    plans = [objective_of(model, tasks).prepare(batch(), 3) for tasks in ((), TASKS)]
    assert torch.equal(*(plan.masks.text for plan in plans))
    assert torch.equal(*(plan.own for plan in plans))
    assert not plans[0].masks.image.any()
    assert not objective_of(model, regions=0.0).prepare(batch(), 3).masks.image.any()
    rates = [objective_of(model).prepare(batch(), step).masks.image.float().mean() for step in range(20)]
    assert 0.08 < torch.stack(rates).mean() < 0.22


def test_a_few_steps_lower_all_losses_whose_targets_are_known_before():
    model = built(dropout=0.1, text_depth=1, cross_depth=1).train()
    objective = objective_of(model, text=0.5, regions=0.5)
    prepared = objective.prepare(batch(), 0)
    adam, history = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(6):
        output = objective.losses(prepared)
        adam.zero_grad()
        sum(term.term.mean for term in output.terms).backward()
        adam.step()
        history.append({term.name: term.term.mean.item() for term in output.terms})
    counts = {term.name: term.term.count.item() for term in output.terms}
    assert counts == prepared.counts
    assert tuple(counts) == ("mlm", "itm", "region-feature", "region-label")
    assert all(parameter.grad is not None for parameter in model.parameters())
    for name in ("mlm", "region-feature", "region-label"):
        assert history[-1][name] < 0.9 * history[0][name], name
    assert objective.operations(prepared) > objective_of(model, ()).operations(prepared) > 0
    assert set(counts) <= set(loss_titles())


def test_a_saved_one_gives_the_same_again_and_has_its_parts(tmp_path):
    for number, names in enumerate((NAMES, ObjectNames())):
        model = built(names)
        model.save_pretrained(tmp_path / str(number))
        again = load_system(tmp_path / str(number)).build().eval()
        assert again.config == model.config
        with torch.no_grad():
            assert torch.equal(again.fuse(shown()).text, model.fuse(shown()).text)
        assert set(model.part_of_parameters().values()) == {"embedder", "transformer", "heads"}
        assert len(model.levels()) == 2 + 2
    with pytest.raises(InputError, match="task region-label needs what system crossed does not offer"):
        objective_of(model)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("systems.c.text_start=minilm", "text_start: the words of minilm are numbers of its own tokenizer; set model"),
        ("systems.c.heads=3", "width 16 is not a multiple of heads 3"),
        ("systems.d={kind: crossed, image: {features: {kind: cnn, sample: 1}}}", "features.sample leaves"),
        ("systems.c.image.features={kind: patch, size: 5}", "is not a multiple"),
        ("pretrainings.c={system: c, losses: [mlm], masking: mam}", "masking: mam hides parts of pictures"),
        ("pretrainings.c={tasks: [{task: region-feature}]}", "task region-feature needs regions, which system mlim"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_built(tiny_recipe, setting, message):
    system = "systems={c: {kind: crossed, image: {features: {kind: patch, size: 4}}, width: 16, heads: 2}}"
    with pytest.raises(InputError, match=message):
        parse(Recipe, override(tiny_recipe.model_dump(mode="json"), [system, setting]), "recipe tiny")
