"""Where words look: the weights of attention against a plain softmax, and how they are spread over a picture."""

import pytest
import torch

from mlim.config import override, parse
from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.attended import CELLS, attended_words, spread
from mlim.models.crossed import CrossingBlock
from mlim.models.system import Attended, Shown
from mlim.models.systems import plan_system
from mlim.recipe import Recipe
from mlim.report.examples.dependence import attention_overlay
from tests.decoder_recipe import LXMERT

LENGTH = 5


def system_of(recipe: Recipe, name: str, *settings: str):
    told = (f"systems={{lxmert: {LXMERT}}}", "model.layers=2", *settings)
    changed = parse(Recipe, override(recipe.model_dump(mode="json"), told), "recipe tiny")
    config = changed.systems.get(name) or changed.system_of(changed.variants["no-pretraining"])
    tokenizer = TextTokenizer.learn(["red shirt", "blue bag"], 128)
    return plan_system(config, changed.network, tokenizer, 0).build().eval()


def shown() -> Shown:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 12, (3, LENGTH), generator=generator)
    attention = torch.arange(LENGTH) < torch.tensor([LENGTH, 3, 4])[:, None]
    return Shown(ids, attention, torch.rand(3, 3, 16, 16, generator=generator))


def plain(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """The mean over heads of softmax(q k' / sqrt(size)) for vectors (Q, H) and (K, H)."""
    size = query.shape[1] // heads
    parts = zip(query.split(size, dim=1), key.split(size, dim=1), strict=True)
    return torch.stack([torch.softmax(asked @ known.T / size**0.5, dim=1) for asked, known in parts]).mean(dim=0)


def test_words_of_mlim_look_at_patches_as_its_last_block_attends(tiny_recipe):
    model, item = system_of(tiny_recipe, "mlim"), shown()
    block, inputs = model.backbone.encoder.levels()[-1], []
    block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        found = model.attended(item)
        assert found.weights.shape == (3, LENGTH, model.patches)
        for row in range(3):
            own = int(item.text_attention[row].sum())
            model.fuse(Shown(item.input_ids[row : row + 1, :own], item.text_attention[row : row + 1, :own],
                             item.pixels[row : row + 1]))  # fmt: skip
            query, key, _ = block.qkv(inputs[-1][0]).chunk(3, dim=1)
            assert torch.allclose(found.weights[row, :own], plain(query, key, block.heads)[:own, own:], atol=1e-6)
    assert found.corners.shape == (model.patches, 4)


def test_words_of_lxmert_look_at_regions_as_its_last_block_attends(tiny_recipe):
    model, item = system_of(tiny_recipe, "lxmert", "systems.lxmert.cross_depth=2"), shown()
    block, inputs = model.crossing[-1], []
    block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        found = model.attended(item)
        model.fuse(item)
        attention = block.cross_attention
        for row, hidden in enumerate(inputs[-1]):
            query, key = attention.query(hidden[:LENGTH]), attention.key(hidden[LENGTH:])
            assert torch.allclose(found.weights[row], plain(query, key, attention.heads), atol=1e-6)
    assert isinstance(block, CrossingBlock)
    assert found.corners.shape == (10, 4)
    assert system_of(tiny_recipe, "lxmert", "systems.lxmert.cross_depth=0").attended(item) is None


def test_attention_is_spread_over_where_a_region_is():
    corners = torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.3, 0.3]])
    cells = spread(corners)
    assert cells.sum(dim=1).tolist() == pytest.approx([1.0, 1.0, 0.0])
    first = cells[0].view(CELLS, CELLS)
    assert first[:2, :4].sum() == pytest.approx(1.0)
    assert first[:2, :4].unique().numel() == 1
    weights = torch.tensor([[[0.1, 0.1, 0.0], [0.8, 0.2, 0.0], [0.2, 0.2, 0.0], [0.0, 1.0, 0.0], [0.3, 0.1, 0.0]]])
    words = attended_words(["[CLS]", "bag", "##s", "red", "[SEP]"], Attended(weights, corners))
    assert [one.word for one in words] == ["bags", "red"]
    assert words[0].cells == pytest.approx((0.5 * cells[0] + 0.2 * cells[1]).tolist())
    assert attention_overlay(words[1].cells) is None  # the same everywhere
    assert "looks most at row 1, column 1 of 8" in attention_overlay(words[0].cells)
