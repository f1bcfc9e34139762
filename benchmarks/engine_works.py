"""The training steps that `engine.py` compares: ours, ours with one change undone, and other people's models."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, ViltConfig, ViltForMaskedLM
from transformers.models.bert.modeling_bert import BertEncoder

from mlim.data.batches import ItemBatch
from mlim.data.transfer import to_device
from mlim.losses import mlm_loss, recon_loss
from mlim.masking import MAM_MODES
from mlim.models.backbone import Backbone
from mlim.models.config import MlimConfig, SpecialIds
from mlim.models.dropout import Dropout
from mlim.models.mlim import Mlim
from mlim.models.transformer import pack
from mlim.recipe import Pretraining, Recipe
from mlim.recipe.tasks import ReconTask
from mlim.tasks.build import pretrain_objective
from mlim.tasks.pretrain.objective import PreparedItems, PretrainObjective

SPECIAL, FIRST_WORD, IGNORED = SpecialIds(), 5, -100
LEARNING_RATE = 1e-5
MODES = len(MAM_MODES)  # so many steps meet every one of MAM's modes once
BATCHES = 2 * MODES
BERT_SHARE = 0.15  # of the tokens, masked by other people's recipes
LOSSES = Pretraining(losses=("mlm", "recon"), masking="mam")
QUARTER = Pretraining(losses=("mlm",), masking="mam", tasks=(ReconTask(share=0.25),))
STEPS_IN_TURN = 8

Change = Callable[[Mlim], None]
Losses = Callable[[PretrainObjective, PreparedItems], Tensor]


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

    @property
    def config(self) -> MlimConfig:
        return MlimConfig.from_recipe(self.recipe, self.recipe.text.vocabulary_size)

    def joining_at(self, share: float) -> "Setting":
        """The same where hidden tokens are read above so many of the blocks, rounded down, alone."""
        model = self.recipe.model
        late = model.model_copy(update={"visible_blocks": int(share * model.layers)})
        return replace(self, recipe=self.recipe.model_copy(update={"model": late}))

    def batches(self) -> list[ItemBatch]:
        """Always the same batches of random texts and pictures."""
        source = torch.Generator().manual_seed(0)
        return [self._batch(source) for _ in range(BATCHES)]

    def _batch(self, source: torch.Generator) -> ItemBatch:
        size, count = self.recipe.image.size, self.batch
        lengths = torch.randint(self.shortest, self.longest + 1, (count,), generator=source)
        places = torch.arange(int(lengths.max()))
        attention, inner = places < lengths[:, None], (places > 0) & (places < lengths[:, None] - 1)
        ids = torch.randint(FIRST_WORD, self.recipe.text.vocabulary_size, inner.shape, generator=source)
        ids = ids.where(inner, SPECIAL.sep).where(places > 0, SPECIAL.cls).where(attention, 0)
        pixels = torch.randint(256, (count, size, size, 3), generator=source, dtype=torch.uint8).permute(0, 3, 1, 2)
        return ItemBatch(ids, attention, inner, pixels, [str(place) for place in range(count)])

    def optimised(self, name: str, model: nn.Module, tokens: float, loss: Callable[[int], Tensor]) -> Work:
        """A step of `model`, which `loss(number)` gives the loss of: bf16 products on CUDA, fused Adam."""
        model.to(self.device).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, fused=True)

        def step(number: int) -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                value = loss(number)
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return Work(name, step, self.batch, tokens)


# ---- ours, and ours with a change undone ----


def mlm_alone(objective: PretrainObjective, prepared: PreparedItems) -> Tensor:
    """Without RECON and its decoder: what a model has to do that only fills in words."""
    model, batch, plan = objective.model, prepared.batch.with_floats(), prepared.masks
    output = model.forward_items(batch.input_ids, batch.text_attention, batch.pixels, plan.text, plan.image)
    hidden = output.text.flatten(0, 1)[prepared.targets["mlm"].wanted]
    return mlm_loss(model.mlm_logits(hidden), batch.input_ids.flatten()[prepared.targets["mlm"].wanted]).mean


def our_losses(objective: PretrainObjective, prepared: PreparedItems) -> Tensor:
    output = objective.losses(prepared)
    return torch.stack([term.total / max(prepared.counts[name], 1) for name, term, _ in output.terms]).sum()


def all_positions(objective: PretrainObjective, prepared: PreparedItems) -> Tensor:
    """The same losses with logits at every text position."""
    model, batch, plan = objective.model, prepared.batch.with_floats(), prepared.masks
    output = model.forward_items(batch.input_ids, batch.text_attention, batch.pixels, plan.text, plan.image)
    logits = model.mlm_logits(output.text.flatten(0, 1)).float()
    labels = batch.input_ids.masked_fill(~plan.text, IGNORED).flatten()
    mlm = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return mlm / max(prepared.counts["mlm"], 1) + recon_loss(model.reconstruct(output.patches), batch.pixels).mean


def unchanged(model: Mlim) -> None:
    """The model as it is."""


def keep_padding(model: Mlim) -> None:
    """Undo packing: every place counts as a token, and attention masks what is none."""
    encode = model.backbone.encode

    def padded(vectors: Tensor, attention: Tensor, _: object = None) -> Tensor:
        packing = pack(torch.ones_like(attention))._replace(attention_mask=attention, padded=True)
        return encode(vectors, attention, packing)

    model.backbone.encode = padded


def usual_dropout(model: Mlim) -> None:
    """Undo cheap random numbers."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.draws_cheaply = lambda _: False


def planar_embedder(model: Mlim) -> None:
    """Undo channels-last in the embedder."""
    _make_planar(model.backbone.image_embedder.layers[0])


def planar_decoder(model: Mlim) -> None:
    """Undo channels-last in the decoder."""
    _make_planar(model.decoder.layers[0])


def _make_planar(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda _, given: given[0].contiguous())


def pad_everything(model: Mlim) -> None:
    """Undo packing, fused matrices and cheap dropout: Hugging Face's blocks over the padded batch, under a mask."""
    backbone = model.backbone
    backbone.encoder, backbone.dropout = BertEncoder(bert_config(model.config)), nn.Dropout(model.config.dropout)
    backbone.encode = functools.partial(_padded_encode, backbone)


def _padded_encode(backbone: Backbone, vectors: Tensor, attention: Tensor, packing: object = None) -> Tensor:
    mask = attention[:, None, None, :].expand(-1, -1, attention.shape[1], -1)
    hidden: Tensor = backbone.encoder(backbone.dropout(backbone.norm(vectors)), attention_mask=mask).last_hidden_state
    return hidden


def ours(
    name: str,
    setting: Setting,
    change: Change = unchanged,
    losses: Losses = our_losses,
    pretraining: Pretraining = LOSSES,
) -> Work:
    """Our step with MLM and RECON: masks drawn, losses, gradients, Adam; `change` alters the model beforehand."""
    model, batches = Mlim.random(setting.config, seed=0), setting.batches()
    objective = pretrain_objective(model, setting.recipe.pretrain, pretraining, setting.recipe.text.limit, seed=0)
    change(model)
    steps = _steps_in_turn(objective, batches[0])

    def loss(number: int) -> Tensor:
        prepared = objective.prepare(batches[number % BATCHES], steps[number % len(steps)])
        return losses(objective, to_device(prepared, setting.device))

    padded = change in (pad_everything, keep_padding)
    texts = [batch.input_ids.shape[1] if padded else batch.text_attention.sum() / setting.batch for batch in batches]
    return setting.optimised(name, model, float(sum(texts) / BATCHES) + setting.config.patches, loss)


def _steps_in_turn(objective: PretrainObjective, batch: ItemBatch) -> list[int]:
    """Numbers of steps that draw MAM's modes in turn."""
    every, found = itertools.count(), list[int]()
    for mode in MAM_MODES * STEPS_IN_TURN:
        found.append(next(step for step in every if objective.prepare(batch, step).masks.mode == mode))
    return found


def transformer(name: str, setting: Setting, change: Change = unchanged) -> Work:
    """Our blocks by themselves over random vectors, none of them padding."""
    model, width = (
        Mlim.random(setting.config, seed=0),
        setting.config.patches + (setting.shortest + setting.longest) // 2,
    )
    change(model)
    packing = to_device(pack(torch.ones(setting.batch, width, dtype=torch.bool)), setting.device)
    vectors = torch.randn(setting.batch, width, setting.config.hidden_size, device=setting.device)
    parts, encode = nn.ModuleList([model.backbone.encoder, model.backbone.norm]), model.backbone.encode
    return setting.optimised(
        name, parts, width, lambda _: encode(vectors, packing.attention_mask, packing).square().mean()
    )


def pieces(setting: Setting) -> list[Work]:
    """The parts of our step one by one, each with its own gradients and its own Adam, on random inputs."""
    model, config, batch = Mlim.random(setting.config, seed=0), setting.config, setting.batch
    embedder, masked = model.backbone.image_embedder, batch * max(1, setting.longest // MODES)
    vectors = torch.randn(batch, config.patches, config.hidden_size, device=setting.device, requires_grad=True)
    pixels = torch.rand(batch, 3, config.image_size, config.image_size, device=setting.device)
    hidden, targets = torch.randn(masked, config.hidden_size), torch.arange(masked)
    hidden, targets = hidden.to(setting.device).requires_grad_(), targets.to(setting.device)
    runs: dict[str, tuple[list[nn.Module], Callable[[int], Tensor]]] = {
        "embedder": ([embedder], lambda _: embedder(pixels).square().mean()),
        "MLM head": (
            [model.mlm_head, model.backbone.word_embeddings],
            lambda _: mlm_loss(model.mlm_logits(hidden), targets).mean,
        ),
        "decoder": ([model.decoder], lambda _: recon_loss(model.reconstruct(vectors), pixels).mean),
    }
    found = [setting.optimised(name, nn.ModuleList(parts), 0, run) for name, (parts, run) in runs.items()]
    return [transformer("transformer", setting), *found]


# ---- other people's ----


def bert_config(config: MlimConfig) -> BertConfig:
    """Hugging Face's BERT of the same shape."""
    return BertConfig(
        vocab_size=config.vocabulary_size, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, intermediate_size=config.intermediate_size, hidden_act=config.activation,
        hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout, attn_implementation="sdpa",
    )  # fmt: skip


def some_labels(ids: Tensor, allowed: Tensor) -> Tensor:
    """Labels at 15 % of the allowed positions, as the data collators of other projects give them."""
    chosen = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < BERT_SHARE) & allowed
    return ids.masked_fill(~chosen, IGNORED)


def bert(name: str, setting: Setting) -> Work:
    """The floor: `BertForMaskedLM` and nothing else, over as many tokens, none of them padding."""
    width, model = setting.config.patches + setting.longest, BertForMaskedLM(bert_config(setting.config))
    source, words = torch.Generator().manual_seed(0), setting.config.vocabulary_size
    ids = torch.randint(FIRST_WORD, words, (setting.batch, width), generator=source)
    given = {"input_ids": ids, "labels": some_labels(ids, torch.ones_like(ids, dtype=torch.bool))}
    moved = to_device(given, setting.device)
    return setting.optimised(name, model, width, lambda _: model(**moved).loss)


def vilt(name: str, setting: Setting, patch: int) -> Work:
    """Hugging Face's ViLT for masked language modelling on the same texts and pictures, `patch` pixels per token."""
    config, batches = setting.config, setting.batches()
    shape = bert_config(config).to_dict() | {"max_position_embeddings": setting.longest}
    model = ViltForMaskedLM(ViltConfig(**_known(shape), image_size=config.image_size, patch_size=patch))

    def loss(number: int) -> Tensor:
        batch = batches[number % BATCHES]
        given = {"input_ids": batch.input_ids, "attention_mask": batch.text_attention.long()}
        given["labels"] = some_labels(batch.input_ids, batch.maskable)
        pixels = to_device(batch, setting.device).with_floats().pixels
        value: Tensor = model(**to_device(given, setting.device), pixel_values=pixels).loss
        return value

    widths = sum(batch.input_ids.shape[1] for batch in batches) / BATCHES
    patches = (config.image_size // patch) ** 2 + 1  # and a [CLS] of its own
    return setting.optimised(name, model, widths + patches, loss)


def _known(shape: dict[str, object]) -> dict[str, object]:
    """What ViLT's configuration shares with BERT's."""
    names = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads")
    more = ("intermediate_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob")
    return {name: shape[name] for name in (*names, *more)}
