"""Detection against DETR's, layer by layer and loss by loss; the geometry of boxes."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, generalized_box_iou
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

from mlim.data.batches import Objects
from mlim.losses import UNKNOWN
from mlim.models.boxes import giou, matching_cost, overlap, to_corners
from mlim.models.decoder import Blocks, Memory
from mlim.models.detection import Detected, DetectionHeads, sine_positions
from mlim.tasks.pretrain.set_loss import largest, match_objects, object_counts, set_loss

WIDTH, HEADS, INNER, LAYERS, QUERIES, CLASSES, GRID = 16, 2, 24, 2, 5, 4, 3
SHAPE = SimpleNamespace(
    hidden_size=WIDTH,
    heads=HEADS,
    layers=LAYERS,
    intermediate_size=INNER,
    dropout=0.0,
    activation="relu",
    norm_eps=1e-5,
)
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
PARTS = {
    **{f"self_attention.{mine}": f"self_attn.{other}" for mine, other in ATTENTION.items()},
    **{f"cross_attention.{mine}": f"encoder_attn.{other}" for mine, other in ATTENTION.items()},
    "self_norm": "self_attn_layer_norm",
    "cross_norm": "encoder_attn_layer_norm",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "output_norm": "final_layer_norm",
}


@pytest.fixture(scope="module")
def theirs() -> DetrForObjectDetection:
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    backbone = ResNetConfig(**sizes, layer_type="basic", out_features=["stage2"])
    config = DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, backbone=None, d_model=WIDTH, encoder_layers=LAYERS,
        decoder_layers=LAYERS, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER,
        decoder_ffn_dim=INNER, num_queries=QUERIES, num_labels=CLASSES,
    )  # fmt: skip
    model = DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def copied(ours: torch.nn.Module, theirs: torch.nn.Module, parts: dict[str, str]) -> None:
    given, mine = theirs.state_dict(), ours.state_dict()
    for name, other in parts.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in mine:
                mine[f"{name}.{kind}"].copy_(given[f"{other}.{kind}"])


def as_blocks(theirs: torch.nn.Module, crosses: bool) -> Blocks:
    ours = Blocks(SHAPE, crosses)
    for number in range(LAYERS):
        copied(ours, theirs, {f"blocks.{number}.{mine}": f"layers.{number}.{other}" for mine, other in PARTS.items()})
    return ours


def test_encoder_queries_decoder_and_heads_are_those_of_detr(theirs):
    torch.manual_seed(1)
    cells = torch.randn(2, GRID**2, WIDTH)
    heads = DetectionHeads(WIDTH, CLASSES)
    boxes = {f"boxes.{number}": f"bbox_predictor.layers.{number}" for number in range(3)}
    copied(heads, theirs, {"classes": "class_labels_classifier", **boxes})
    encoder, decoder = as_blocks(theirs.model.encoder, crosses=False), as_blocks(theirs.model.decoder, crosses=True)
    with torch.no_grad():
        expected = theirs(torch.zeros(2, 3, 8, 8), torch.ones(2, GRID, GRID), inputs_embeds=cells)
        positions = sine_positions(GRID, WIDTH)
        memory = Memory(encoder(cells, positions)[-1], positions)
        queries = theirs.model.query_position_embeddings.weight
        outputs = decoder(torch.zeros(2, QUERIES, WIDTH), queries, memory=memory)
        found = heads(theirs.model.decoder.layernorm(outputs))
    assert torch.allclose(found.classes[-1], expected.logits, atol=1e-5)
    assert torch.allclose(found.boxes[-1], expected.pred_boxes, atol=1e-5)


def test_sine_positions_are_those_of_detr():
    theirs = DetrSinePositionEmbedding(WIDTH // 2, normalize=True)
    expected = theirs((1, WIDTH, GRID, GRID), torch.device("cpu"), torch.float32)
    assert torch.allclose(sine_positions(GRID, WIDTH), expected[0].flatten(1).T, atol=1e-5)


def random_case(seed: int, numbers: tuple[int, ...], kinds: tuple[int, ...] = ()) -> tuple[Detected, Objects]:
    generator = torch.Generator().manual_seed(seed)
    rows, most = len(numbers), max(numbers)
    logits = torch.randn(LAYERS, rows, QUERIES, CLASSES + 1, generator=generator).requires_grad_()
    predicted = torch.rand(LAYERS, rows, QUERIES, 4, generator=generator).requires_grad_()
    attributes = [torch.randn(LAYERS, rows, QUERIES, values, generator=generator) for values in kinds]
    labels = torch.randint(CLASSES, (rows, most), generator=generator)
    real = torch.arange(most) < torch.tensor(numbers)[:, None]
    boxes = torch.rand(rows, most, 4, generator=generator) * 0.5 + 0.1
    values = [torch.randint(-1, count, (rows, most), generator=generator) for count in kinds]
    known = torch.stack(values, dim=2) if kinds else labels.new_zeros(rows, most, 0)
    known = torch.where((known < 0) | ~real[..., None], UNKNOWN, known)
    objects = Objects(boxes, torch.where(real, labels, UNKNOWN), known, torch.tensor(numbers))
    return Detected(logits, predicted, attributes), objects


def test_matching_and_losses_are_those_of_detr(theirs):
    numbers = (3, 1, 5)
    detected, objects = random_case(2, numbers)
    labels = [
        {"class_labels": objects.labels[row, :number], "boxes": objects.boxes[row, :number]}
        for row, number in enumerate(numbers)
    ]
    config = SimpleNamespace(**{**theirs.config.to_dict(), "auxiliary_loss": True, "num_labels": CLASSES})
    total, parts, _ = ForObjectDetectionLoss(
        detected.classes[-1], labels, torch.device("cpu"), detected.boxes[-1], config, detected.classes, detected.boxes
    )
    terms = set_loss(detected, objects)
    expected = {
        "detect-class": parts["loss_ce"] + parts["loss_ce_0"],
        "detect-l1": parts["loss_bbox"] + parts["loss_bbox_0"],
        "detect-giou": parts["loss_giou"] + parts["loss_giou_0"],
    }
    for name, value in expected.items():
        assert torch.allclose(LAYERS * terms[name].mean, value, atol=1e-5), name
    ours = LAYERS * (terms["detect-class"].mean + 5 * terms["detect-l1"].mean + 2 * terms["detect-giou"].mean)
    given = [torch.autograd.grad(loss, [detected.classes, detected.boxes]) for loss in (ours, total)]
    for mine, other in zip(*given, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 999), st.lists(st.integers(0, QUERIES), min_size=1, max_size=4).filter(any))
def test_counts_are_known_before_the_predictions(seed, numbers):
    detected, objects = random_case(seed, tuple(numbers), kinds=(3, 2))
    terms, counts = set_loss(detected, objects), object_counts(objects, LAYERS, QUERIES)
    assert {name: term.count.item() for name, term in terms.items()} == pytest.approx(counts, rel=1e-6)
    taken = match_objects(detected, objects)
    assert len(taken.box) == LAYERS * sum(numbers)  # each box once in every layer, by a query of its own
    queries = {(int(layer), int(row), int(query)) for layer, row, query, _ in zip(*taken, strict=True)}
    assert len(queries) == len(taken.box)
    weights = torch.where(torch.tensor(numbers) > 0, QUERIES, 0).sum() - sum(numbers)
    assert counts["detect-class"] == pytest.approx(LAYERS * (sum(numbers) + 0.1 * weights.item()))


def test_attributes_change_no_assignment_and_unknown_ones_count_nothing():
    detected, objects = random_case(5, (2, 1), kinds=(3, 2))
    other = detected._replace(attributes=[-each for each in detected.attributes])
    assert torch.equal(torch.stack(match_objects(detected, objects)), torch.stack(match_objects(other, objects)))
    nothing = objects._replace(attributes=torch.full_like(objects.attributes, UNKNOWN))
    term = set_loss(detected, nothing)["detect-attribute"]
    assert (term.total.item(), term.count.item(), term.mean.item()) == (0.0, 0.0, 0.0)


@settings(max_examples=30)
@given(st.integers(0, 999))
def test_boxes_overlap_as_their_definition_says(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(4, 4, generator=generator) for _ in range(2))
    boxes = [torch.cat([each[:, :2], each[:, :2] + each[:, 2:]], dim=1) for each in (first, second)]
    near = giou(boxes[0][:, None], boxes[1][None])
    assert torch.allclose(near, generalized_box_iou(*boxes), atol=1e-5)
    centred = torch.cat([boxes[0][:, :2] + first[:, 2:] / 2, first[:, 2:]], dim=1)
    assert torch.allclose(to_corners(centred), boxes[0], atol=1e-6)
    shared, union = overlap(boxes[0][:, None], boxes[1][None])
    assert ((near <= shared / union + 1e-6) & (near >= -1 - 1e-6)).all()


def test_a_cost_that_is_not_finite_is_only_the_dearest():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    predicted = torch.tensor([[float("nan"), 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    cost = matching_cost(torch.zeros(2, 2), predicted, torch.tensor([0]), boxes)
    assert cost.isfinite().all()
    assert cost.argmin() == 1


def test_of_more_boxes_than_queries_the_largest_stay():
    _, objects = random_case(6, (3, 1), kinds=(2,))
    sizes = objects.boxes[..., 2:].prod(dim=-1)
    kept = largest(objects, 2)
    assert kept.numbers.tolist() == [2, 1]
    assert set(kept.boxes[0, :, 2:].prod(dim=-1).tolist()) == set(sizes[0].sort().values[1:].tolist())
    assert kept.labels[1].tolist() == [objects.labels[1, 0].item(), UNKNOWN]
    assert largest(objects, 3) is objects
