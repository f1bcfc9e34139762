"""Counted operations against torch's own counter, and which devices have a known peak."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mlim.models.config import MlimConfig
from mlim.models.costs import PARTS, TRAINING, Sample, part_costs, training_operations
from mlim.models.mlim import Mlim
from mlim.recipe import DecoderConfig, EmbedderConfig, load_recipe
from mlim.throughput import device_name, mfu, peak_of

BATCH, TEXT, MASKED = 2, 7, 3
CONFIG = MlimConfig(
    vocabulary_size=40, text_positions=12, image_size=24, grid=2, hidden_size=16, layers=3, heads=2,
    intermediate_size=24, dropout=0.0, embedder=EmbedderConfig(strides=(2, 2, 3), channels=(6, 8, 10)),
    decoder=DecoderConfig(strides=(3, 2, 2), channels=(12, 8, 6, 5)),
)  # fmt: skip
SAMPLE = Sample(text=TEXT, masked=MASKED, patches=CONFIG.patches)
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture(scope="module")
def model():
    return Mlim.random(CONFIG, 0).eval()


def counted(run) -> int:
    """Operations that torch counts, with attention as the two products that it consists of."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def runs(model):
    tokens = torch.randn(BATCH, TEXT + CONFIG.patches, CONFIG.hidden_size, requires_grad=True)
    pixels = torch.rand(BATCH, 3, 24, 24)
    return {
        "embedder": lambda: model.backbone.embed_image(pixels),
        "transformer": lambda: model.backbone.encode(
            tokens, torch.ones(BATCH, TEXT + CONFIG.patches, dtype=torch.bool)
        ),
        "mlm_head": lambda: model.mlm_logits(tokens[:, :MASKED].flatten(0, 1)),
        "decoder": lambda: model.reconstruct(tokens[:, : CONFIG.patches]),
    }


@pytest.mark.parametrize("part", PARTS)
def test_forward_operations_are_exactly_those_that_torch_counts(model, part):
    assert BATCH * part_costs(CONFIG, SAMPLE)[part].operations == counted(runs(model)[part])


def test_a_training_step_costs_three_times_as_much_but_for_the_gradients_of_the_pixels(model):
    def step():
        sum(run().square().sum() for run in runs(model).values()).backward()

    first = 2 * 12**2 * (3 * 2 * 2) * 6  # of the embedder's first layer, whose input needs no gradient
    forward = sum(part_costs(CONFIG, SAMPLE)[part].operations for part in PARTS)
    assert training_operations(CONFIG, SAMPLE) == TRAINING * forward
    assert counted(step) == BATCH * (TRAINING * forward - first)


def test_padding_back_costs_nothing_that_counts(model):
    """Packed tokens: 5 + 9 of them; only attention is computed over the padded length here."""
    attention = torch.arange(9) < torch.tensor([5, 9])[:, None]
    vectors = torch.randn(2, 9, 16)
    dense = sum(part_costs(CONFIG, Sample(length, 0, 0))["transformer"].operations for length in (5, 9))
    products = 4 * 16 * CONFIG.layers
    assert counted(lambda: model.backbone.encode(vectors, attention)) == dense + products * (9**2 - 5**2)


@pytest.mark.parametrize("name", ["demo", "small", "paper"])
def test_weights_are_those_of_the_model(name):
    recipe = load_recipe(name)
    config = MlimConfig.from_recipe(recipe, recipe.text.vocabulary_size)
    with torch.device("meta"):
        model = Mlim(config)
    parts = {"embedder": model.backbone.image_embedder, "transformer": model.backbone.encoder, "decoder": model.decoder}
    costs = part_costs(config, SAMPLE)
    for part, module in parts.items():
        assert costs[part].weights == sum(parameter.numel() for parameter in module.parameters()), part
    head = sum(parameter.numel() for parameter in model.mlm_head.parameters())
    assert costs["mlm_head"].weights == head + model.backbone.word_embeddings.weight.numel()


def test_utilisation_is_a_share_of_the_known_peak_of_all_devices():
    assert mfu(1e12, 494.75, H100, "bf16") == pytest.approx(0.5)
    assert mfu(1e12, 494.75, H100, "bf16", devices=2) == pytest.approx(0.25)
    assert mfu(1e12, 494.7, H100, "tf32") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name",
    ["cpu", "mps", "", "NVIDIA H20", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "L4X"],
)
def test_no_peak_is_guessed(name):
    assert peak_of(name) is None
    assert mfu(1e12, 100.0, name, "bf16") is None


@pytest.mark.parametrize("name", ["Tesla V100-SXM2-16GB", "Tesla T4"])
def test_a_precision_that_a_device_has_not_has_no_peak(name):
    assert mfu(1e12, 1.0, name, "bf16") is None
    assert mfu(1e12, 1.0, name, "fp16") is not None


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H200",
        H100,
        "NVIDIA H100 PCIe",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA L4",
        "NVIDIA L40S",
    ],
)
def test_known_devices_are_found_by_the_names_of_their_drivers(name):
    peak = peak_of(name)
    assert peak.fp16 == peak.bf16 > peak.tf32 > peak.fp32 > peak.bandwidth > 0


def test_a_cpu_is_called_cpu():
    assert device_name(torch.device("cpu")) == "cpu"
