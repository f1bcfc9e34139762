"""The training steps that `engine.py` compares: ours, ours with one change undone, and other people's models."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, ViltConfig, ViltForMaskedLM
from transformers.models.bert.modeling_bert import BertEncoder

from mlim.data.collate import ItemBatch
from mlim.data.transfer import to_device
from mlim.losses import mlm_loss, recon_loss
from mlim.masking import MAM_MODES
from mlim.models.backbone import Backbone
from mlim.models.config import MlimConfig, SpecialIds
from mlim.models.mlim import Mlim
from mlim.models.transformer import pack
from mlim.objectives import PreparedItems, PretrainObjective
from mlim.recipe import Pretraining, Recipe

VOCABULARY = 30522  # of bert-large-uncased
SPECIAL = SpecialIds()
FIRST_WORD = 5
IGNORED = -100
LEARNING_RATE = 1e-5
MODES = len(MAM_MODES)  # a round of so many steps meets every one of MAM's modes once
BATCHES = 2 * MODES
BERT_SHARE = 0.15  # of the tokens, masked by other people's recipes


@dataclass(frozen=True)
class Work:
    """A training step to be timed, `step(number)`; its transformer computes `tokens` per sample, padding included."""

    name: str
    step: Callable[[int], None]
    samples: int
    tokens: float


@dataclass(frozen=True)
class Setting:
    """Where and on what everything is measured; texts of `shortest` to `longest` tokens, [CLS] and [SEP] included."""

    recipe: Recipe
    device: torch.device
    batch: int
    shortest: int
    longest: int
    config: MlimConfig = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", MlimConfig.from_recipe(self.recipe, VOCABULARY))

    def batches(self) -> list[ItemBatch]:
        """Always the same batches of random texts and pictures."""
        source = torch.Generator().manual_seed(0)
        return [self._batch(source, number) for number in range(BATCHES)]

    def _batch(self, source: torch.Generator, number: int) -> ItemBatch:
        size, count = self.config.image_size, self.batch
        lengths = torch.randint(self.shortest, self.longest + 1, (count,), generator=source)
        width = int(lengths.max())
        attention = torch.arange(width) < lengths[:, None]
        ids = torch.randint(FIRST_WORD, VOCABULARY, (count, width), generator=source)
        ids[:, 0] = SPECIAL.cls
        ids[torch.arange(count), lengths - 1] = SPECIAL.sep
        pixels = torch.randint(256, (count, size, size, 3), generator=source, dtype=torch.uint8).permute(0, 3, 1, 2)
        inner = attention & (ids != SPECIAL.cls) & (ids != SPECIAL.sep)
        names = [f"{number}-{place}" for place in range(count)]
        return ItemBatch(ids.where(attention, 0), attention, inner, pixels, names)

    @contextmanager
    def precision(self) -> Iterator[None]:
        """bf16 products on CUDA, fp32 elsewhere."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            yield


def optimised(model: nn.Module, setting: Setting, loss: Callable[[int], Tensor]) -> Callable[[int], None]:
    """A step of `model`, which `loss(number)` gives the loss of, with fused Adam."""
    model.to(setting.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, fused=True)

    def step(number: int) -> None:
        with setting.precision():
            value = loss(number)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# ---- ours, and ours with a change undone ----


Change = Callable[[Mlim], None]
Losses = Callable[[PretrainObjective, PreparedItems], Tensor]


def our_losses(objective: PretrainObjective, prepared: PreparedItems) -> Tensor:
    output = objective.losses(prepared)
    parts = [weight * term.total / max(prepared.counts[name], 1) for name, term, weight in output.terms]
    return torch.stack(parts).sum()


def all_positions(objective: PretrainObjective, prepared: PreparedItems) -> Tensor:
    """The same losses with logits at every text position."""
    model, batch, plan = objective.model, prepared.batch.with_floats(), prepared.plan
    output = model.forward_items(
        batch.input_ids, batch.text_attention, batch.pixels, text_mask=plan.text, image_mask=plan.image
    )
    logits = model.mlm_logits(output.text.flatten(0, 1)).float()
    labels = batch.input_ids.masked_fill(~plan.text, IGNORED).flatten()
    mlm = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    recon = recon_loss(model.reconstruct(output.cells), batch.pixels)
    return mlm / max(prepared.counts["mlm"], 1) + recon.total / prepared.counts["recon"]


def unchanged(model: Mlim) -> None:
    """The model as it is."""


def ours(name: str, setting: Setting, change: Change = unchanged, losses: Losses = our_losses) -> Work:
    """Our step with MLM and RECON: masks drawn, losses, gradients, Adam; `change` alters the model beforehand."""
    model, batches = Mlim.random(setting.config, seed=0), setting.batches()
    objective = PretrainObjective(model, setting.recipe, Pretraining(losses=("mlm", "recon"), masking="mam"), seed=0)
    change(model)

    def loss(number: int) -> Tensor:
        prepared = objective.prepare(batches[number % BATCHES], number, mode=MAM_MODES[number % MODES])
        return losses(objective, to_device(prepared, setting.device))

    padded = losses is not our_losses
    texts = [batch.input_ids.shape[1] if padded else batch.text_attention.sum() / setting.batch for batch in batches]
    return Work(
        name, optimised(model, setting, loss), setting.batch, float(sum(texts) / BATCHES) + setting.config.cells
    )


def pad_everything(model: Mlim) -> None:
    """Undo the packing: Hugging Face's blocks over the padded batch, under a mask."""
    backbone = model.backbone
    backbone.encoder = BertEncoder(bert_config(model.config))
    backbone.encode = functools.partial(_padded_encode, backbone)


def _padded_encode(backbone: Backbone, vectors: Tensor, attention: Tensor, packing: object = None) -> Tensor:
    mask = attention[:, None, None, :].expand(-1, -1, attention.shape[1], -1)
    hidden: Tensor = backbone.encoder(backbone.dropout(backbone.norm(vectors)), attention_mask=mask).last_hidden_state
    return hidden


def planar_decoder(model: Mlim) -> None:
    """Undo channels-last: the decoder's first layer gets its input channel by channel."""
    model.decoder.layers[0].register_forward_pre_hook(lambda _, given: given[0].contiguous())


# ---- other people's ----


def bert_config(config: MlimConfig) -> BertConfig:
    """Hugging Face's BERT of the same shape."""
    return BertConfig(
        vocab_size=config.vocabulary_size, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, intermediate_size=config.intermediate_size, hidden_act=config.activation,
        hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout,
        attn_implementation="sdpa",
    )  # fmt: skip


def some_labels(ids: Tensor, allowed: Tensor) -> Tensor:
    """Labels at 15 % of the allowed positions, the rest ignored, as data collators of other projects give them."""
    chosen = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < BERT_SHARE) & allowed
    return ids.masked_fill(~chosen, IGNORED)


def bert(name: str, setting: Setting) -> Work:
    """The floor: `BertForMaskedLM` and nothing else, over as many tokens, none of them padding."""
    width, model = setting.config.cells + setting.longest, BertForMaskedLM(bert_config(setting.config))
    ids = torch.randint(FIRST_WORD, VOCABULARY, (setting.batch, width), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "labels": some_labels(ids, torch.ones_like(ids, dtype=torch.bool))}
    moved = {key: value.to(setting.device) for key, value in given.items()}
    return Work(name, optimised(model, setting, lambda _: model(**moved).loss), setting.batch, float(width))


def vilt(name: str, setting: Setting, patch: int) -> Work:
    """Hugging Face's ViLT for masked language modelling on the same texts and pictures, `patch` pixels per token."""
    config, batches = setting.config, setting.batches()
    model = ViltForMaskedLM(
        ViltConfig(
            vocab_size=VOCABULARY, max_position_embeddings=setting.longest, hidden_size=config.hidden_size,
            num_hidden_layers=config.layers, num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size, hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout, image_size=config.image_size, patch_size=patch,
        )
    )  # fmt: skip

    def loss(number: int) -> Tensor:
        batch = batches[number % BATCHES]
        given = {"input_ids": batch.input_ids, "attention_mask": batch.text_attention.long()}
        given["labels"] = some_labels(batch.input_ids, batch.maskable)
        moved = {key: value.to(setting.device) for key, value in given.items()}
        value: Tensor = model(**moved, pixel_values=to_device(batch, setting.device).with_floats().pixels).loss
        return value

    widths = sum(batch.input_ids.shape[1] for batch in batches) / BATCHES
    patches = (config.image_size // patch) ** 2 + 1  # and a [CLS] of its own
    return Work(name, optimised(model, setting, loss), setting.batch, widths + patches)


def transformer_alone(name: str, setting: Setting, change: Change = unchanged) -> Work:
    """Our blocks by themselves over random vectors, none of them padding."""
    model, width = Mlim.random(setting.config, seed=0), setting.config.cells + setting.longest
    change(model)
    backbone = model.backbone
    packing = to_device(pack(torch.ones(setting.batch, width, dtype=torch.bool)), setting.device)
    vectors = torch.randn(setting.batch, width, setting.config.hidden_size, device=setting.device)

    def loss(_: int) -> Tensor:
        return backbone.encode(vectors, packing.readable, packing).float().square().mean()

    blocks = nn.ModuleList([backbone.encoder, backbone.norm])
    return Work(name, optimised(blocks, setting, loss), setting.batch, float(width))


def compiled(model: Mlim) -> None:
    """torch.compile for blocks, embedder and decoder."""
    model.compile_parts()


def pieces(setting: Setting) -> list[Work]:
    """The parts of our step one by one, forward and backward, on random inputs; and Adam."""
    model, config, batch = Mlim.random(setting.config, seed=0).to(setting.device).train(), setting.config, setting.batch
    masked = batch * max(1, setting.longest // MODES)
    pixels = torch.rand(batch, 3, config.image_size, config.image_size, device=setting.device)
    width = config.cells + (setting.shortest + setting.longest) // 2
    vectors = torch.randn(batch * width, config.hidden_size, device=setting.device, requires_grad=True)
    packing = to_device(pack(torch.ones(batch, width, dtype=torch.bool)), setting.device)
    targets = torch.arange(masked, device=setting.device)
    runs: dict[str, Callable[[], Tensor]] = {
        "embedder": lambda: model.backbone.embed_image(pixels).square().sum(),
        "transformer": lambda: model.backbone.encode(
            vectors.unflatten(0, (batch, -1)), packing.readable, packing
        ).sum(),
        "MLM head and its loss": lambda: mlm_loss(model.mlm_logits(vectors[:masked]), targets).mean,
        "decoder and RECON": lambda: (
            recon_loss(model.reconstruct(vectors[: batch * config.cells].unflatten(0, (batch, -1))), pixels).mean
        ),
    }
    works = [Work(name, _there_and_back(run, setting), batch, float(width)) for name, run in runs.items()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    return [*works, Work("Adam", lambda _: adam.step(), batch, float(width))]


def _there_and_back(run: Callable[[], Tensor], setting: Setting) -> Callable[[int], None]:
    def step(_: int) -> None:
        with setting.precision():
            loss = run()
        loss.backward()

    return step
