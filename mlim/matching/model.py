"""The fine-tuned model with its stack, threshold and calibration: what is registered, served and imported is this."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.config import parse
from mlim.console import SilentBar
from mlim.data.batches import PairSide
from mlim.data.collate import ItemSource, Pair, PairCollator
from mlim.data.images import as_floats
from mlim.data.tokenize import TextTokenizer
from mlim.data.transfer import to_device
from mlim.errors import InputError
from mlim.evaluation.threshold import Calibration
from mlim.files import read_json, sha256_of, write_json
from mlim.manifest import MANIFEST, check_manifest, write_manifest
from mlim.matching.decoding_room import DecodingRoom
from mlim.matching.explain import Explanation, Question, explain
from mlim.matching.item_parts import ItemParts, read_parts
from mlim.matching.items import ITEM_FORM, Item, read_items
from mlim.matching.model_scorer import ModelScorer
from mlim.matching.settings import MODALITIES, SETTINGS, ServingSettings
from mlim.models.pair_network import ItemStates, ScoresPairs
from mlim.models.storage import read_config
from mlim.models.systems import load_matcher
from mlim.onnx.matcher import KIND as ONNX
from mlim.onnx.matcher import OnnxMatcher
from mlim.recipe.base import Modality
from mlim.stacking.features import LITE0
from mlim.stacking.items import ColumnSource, Items, describe
from mlim.stacking.pictures import Measure, picture_of
from mlim.stacking.scorers import MATCHER
from mlim.stacking.stack import Stack
from mlim.stacking.storage import load_stack, save_stack

SEPARATE: Final = "separate"
PAIR_FORM: Final = f"(item, item), and as each item {ITEM_FORM}"
PAIRS_FORM: Final = f"[(item, item), ...], and as each item {ITEM_FORM}"
ITEMS_FORM: Final = f"[item, ...], and as each item {ITEM_FORM}"
Scores = NDArray[np.float64]
Places = NDArray[np.int64]
T = TypeVar("T")


class Predictions(NamedTuple):
    """Of n pairs: `score` (n,) in [0, 1], `probability` (n,) that they match, `match` (n,) at the model's threshold."""

    score: Scores
    probability: Scores
    match: NDArray[np.bool_]


class MatchingModel:
    """Scores pairs of items as the registered model does, because it is that model.

    Made by `mlim.load`. The network, the stack if one was registered, the tokenizer and the settings come from one
    folder whose files were compared with their manifest.
    """

    def __init__(
        self,
        matcher: ScoresPairs,
        tokenizer: TextTokenizer,
        settings: ServingSettings,
        stack: Stack | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        cuda = torch.cuda.is_available() and not isinstance(matcher, OnnxMatcher)
        self._device = torch.device(device or ("cuda" if cuda else "cpu"))
        self._matcher = matcher.to(self._device).eval()
        self._stack, self._sha256 = stack, ""
        self.tokenizer, self.settings = tokenizer, settings
        self.decoding_room = DecodingRoom()  # of all threads of a server that read pictures for this model

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str | None = None) -> Self:
        """Read a saved model; `MlimError` when its files are not those of its manifest."""
        check_manifest(folder, f"the model in {folder}")
        settings = parse(ServingSettings, read_json(folder / SETTINGS), SETTINGS)
        stack = None if settings.scorer == MATCHER else load_stack(folder)
        tokenizer = TextTokenizer.from_folder(folder)
        model = cls(_load_network(folder), tokenizer, settings, stack, device)
        model._sha256 = sha256_of(folder / MANIFEST)
        return model

    def save(self, folder: str | Path) -> None:
        """Write the model with its manifest into a new folder, which `mlim.load` reads; else `InputError`."""
        folder = Path(folder)
        if folder.exists():
            raise InputError(f"{folder} exists; choose a new folder")
        self._matcher.save_pretrained(folder)
        self.tokenizer.save(folder)
        if self._stack is not None:
            save_stack(folder, self._stack)
        write_json(folder / SETTINGS, self.settings.model_dump(mode="json"))
        write_manifest(folder)

    def score(self, pairs: Sequence[tuple[Item, Item]], modality: Modality | None = None) -> Scores:
        """The score (n,) in [0, 1] of every pair; higher means more likely a match.

        `modality` (both, text, image) is what is read of the items; None: what the model was evaluated on. Scores rank
        pairs and are compared with `threshold`; for probabilities call `predict`. `InputError` names the pair and item
        that cannot be read.
        """
        shown = self.check_modality(modality)
        _check_pairs(pairs)
        parts = [self._score_items(batch, first, shown) for first, batch in self._batches(pairs)]
        return np.concatenate(parts) if parts else np.empty(0)

    def predict(self, pairs: Sequence[tuple[Item, Item]], modality: Modality | None = None) -> Predictions:
        """Score, calibrated probability and decision of every pair; arguments and errors as `score`."""
        return self.decide(self.score(pairs, modality), self.check_modality(modality))

    def encode(self, items: Sequence[Item], modality: Modality | None = None) -> NDArray[np.float32]:
        """One vector per item (n, width). MLIM's are the output at [CLS] and the means over tokens and over patches.

        `InputError` for a model that reads both items of a pair in one sequence (`finetune.read_out` joint or cls): it
        has no vector of one item.
        """
        self.check_reads_alone()
        shown = self.check_modality(modality)
        _check_list(items, "items", ITEMS_FORM)
        parts = []
        for first, batch in self._batches(items):
            names = [f"item {number}" for number in range(first, first + len(batch))]
            parts.append(self.encode_source(read_items(batch, names, shown, self.settings), names, shown))
        return np.concatenate(parts) if parts else np.empty((0, self._matcher.item_width), dtype=np.float32)

    def encode_source(self, source: ItemSource, names: Sequence[str], modality: Modality) -> NDArray[np.float32]:
        """The vectors (n, width) of one batch of the items in `source`."""
        return self.item_vectors(self._collator(source).side(names), modality)

    def explain(
        self,
        pair: tuple[Item, Item],
        references: Sequence[tuple[Item, Item]] = (),
        modality: Modality | None = None,
    ) -> Explanation:
        """Why a pair has its score: contributions of texts, fields and pictures, regions, and what would change it.

        `references` are other pairs of the catalog, ten or so, matches and mismatches: what the pair is compared with.
        Without any, parts are left out instead, which few models have seen. `InputError` names the item that cannot be
        read.
        """
        shown = self.check_modality(modality)
        _check_pair(pair, "the pair")
        _check_list(references, "references", PAIRS_FORM)
        for number, reference in enumerate(references, start=1):
            _check_pair(reference, f"reference {number}")
        names = ["item 1", "item 2", *(f"reference {n + 1}, item {i}" for n in range(len(references)) for i in (1, 2))]
        given = [item for each in (pair, *references) for item in each]
        first, second, *others = read_parts(given, names, shown, self.settings)
        return self.explain_parts((first, second), [*zip(others[::2], others[1::2], strict=True)], shown)

    def explain_parts(
        self,
        pair: tuple[ItemParts, ItemParts],
        references: Sequence[tuple[ItemParts, ItemParts]],
        modality: Modality,
        *,
        regions: bool = True,
        threshold: float | None = None,
        check: Callable[[], None] | None = None,
    ) -> Explanation:
        """The same for items that are in parts already; a pair matches from `threshold` on, None: the model's.

        `check` is called before every batch that is scored and ends the work by raising.
        """
        question = Question.about(*pair, modality, self._matcher.grid)
        lowest = self.threshold_of(modality) if threshold is None else threshold
        return explain(ModelScorer(self, modality, check), question, lowest, references, regions=regions)

    @contextmanager
    def in_folder(self) -> Iterator[Path]:
        """A folder that holds the model during the block, for other processes to load it from."""
        with TemporaryDirectory() as temporary:
            self.save(Path(temporary) / "model")
            yield Path(temporary) / "model"

    @property
    def sha256(self) -> str:
        """What names the model: the SHA-256 of the manifest of its files, as the registry records it."""
        if not self._sha256:
            with self.in_folder() as folder:
                self._sha256 = sha256_of(folder / MANIFEST)
        return self._sha256

    @property
    def network(self) -> ScoresPairs:
        """What computes the logits of pairs."""
        return self._matcher

    def with_network(self, network: ScoresPairs) -> "MatchingModel":
        """The same model on the CPU with another network of the same scores, as ONNX graphs are."""
        return MatchingModel(network, self.tokenizer, self.settings, self._stack, "cpu")

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def reads_items_alone(self) -> bool:
        """Whether an item has a vector of its own, whatever it is compared with."""
        return self._matcher.read_out == SEPARATE

    @property
    def item_width(self) -> int:
        """Numbers in an item's vector."""
        return self._matcher.item_width

    @property
    def threshold(self) -> float:
        """The lowest score that counts as a match, chosen on validation pairs, where pairs are read as evaluated."""
        return self.settings.threshold

    def check_reads_alone(self) -> None:
        """`InputError` for a model that has no vector of one item."""
        if not self.reads_items_alone:
            raise InputError(
                f"this model reads both items of a pair in one sequence (finetune.read_out {self._matcher.read_out}) "
                f"and has no vector of one item; fine-tune with finetune.read_out={SEPARATE}"
            )

    def check_modality(self, modality: str | None) -> Modality:
        """The modality to read, the model's own for None; `InputError` for an unknown one."""
        found = modality or self.settings.modality
        if found not in MODALITIES:
            raise InputError(f"modality `{found}` is none of {', '.join(MODALITIES)}")
        if isinstance(self._matcher, OnnxMatcher):
            self._matcher.check_modality(found)
        return found

    def decide(self, scores: Scores, modality: Modality) -> Predictions:
        """Probabilities and decisions for the scores (n,) of pairs that were read as `modality`."""
        rule = self.settings.rule(modality)
        probability = Calibration(*rule.calibration).apply(scores)
        return Predictions(scores, probability, scores >= rule.threshold)

    def threshold_of(self, modality: Modality) -> float:
        """The lowest score of pairs that were read as `modality` that counts as a match."""
        return self.settings.rule(modality).threshold

    def score_source(
        self, source: ColumnSource, pairs: Sequence[Pair], modality: Modality, measure: Measure | None = None
    ) -> Scores:
        """The score (n,) of one batch of pairs of the items in `source`; `measure` may remember what was measured."""
        first = np.arange(len(pairs))
        items = None
        if self.uses_stack(modality):
            ids = [*(pair.item_a for pair in pairs), *(pair.item_b for pair in pairs)]
            items = describe(source, ids, SilentBar(), measure or self.measure)
        return self.stacked(items, first, first + len(pairs), lambda: self._matcher_scores(source, pairs, modality))

    @property
    def measure(self) -> Measure:
        """What measures a picture as the stack reads it."""
        return picture_of if self._stack is None else self._stack.measure

    @property
    def picture_features(self) -> str | None:
        """The network whose features of pictures the stack reads, by its name in the recipe; None: none."""
        return None if self._stack is None or self._stack.features is None else LITE0

    def uses_stack(self, modality: Modality) -> bool:
        """The stack reads what the model was evaluated on; pairs that are read otherwise are the matcher's alone."""
        return self._stack is not None and modality == self.settings.modality

    def uses_network(self, modality: Modality) -> bool:
        """Whether scores depend on the network: those of a stack that was registered without it do not."""
        return self._stack is None or not self.uses_stack(modality) or self._stack.reads_matcher

    def stacked(self, items: Items | None, first: Places, second: Places, matcher: Callable[[], Scores]) -> Scores:
        """The scores (n,) of the pairs items[first], items[second] by the stack; by the matcher alone without items.

        `matcher` gives its scores (n,) of these pairs; it is not called where they are not needed.
        """
        if self._stack is None or items is None:
            return matcher()
        return self._stack.score(items, first, second, matcher)

    def matcher_scores(self, first: PairSide, second: PairSide, modality: Modality) -> Scores:
        """The scores (n,) of the network alone for a batch of pairs, pixels of 0..255."""
        first, second = (self._on_device(side) for side in (first, second))
        with torch.inference_mode():
            return _as_scores(self._matcher(first, second, modality))

    def item_vectors(self, side: PairSide, modality: Modality) -> NDArray[np.float32]:
        """The vectors (n, item_width) of a batch of items that are read by themselves, pixels of 0..255."""
        with torch.inference_mode():
            return np.asarray(self._matcher.item_vectors(self._on_device(side), modality).float().cpu())

    def item_states(self, side: PairSide, modality: Modality) -> NDArray[np.float32]:
        """What is an item's own in a network that reads both items of a pair in one sequence, of a batch (n, L, H).

        L is the longest text that is read and the patches of a picture, whatever the batch holds; pixels of 0..255.
        """
        with torch.inference_mode():
            states = self._matcher.item_states(self._on_device(side), modality)
        text, patches = (part.float().cpu().numpy() for part in (states.text, states.patches))
        most = self._text_width(modality)
        padded = np.zeros((len(text), most + patches.shape[1], text.shape[2]), dtype=np.float32)
        padded[:, : text.shape[1]], padded[:, most:] = text, patches
        return padded

    def join(
        self,
        first: tuple[NDArray[np.float32], torch.Tensor],
        second: tuple[NDArray[np.float32], torch.Tensor],
        modality: Modality,
    ) -> Scores:
        """The scores (n,) of the network alone from both items' states (n, L, H) and attentions (n, T) bool."""
        sides = [self._as_states(*side, modality) for side in (first, second)]
        with torch.inference_mode():
            return _as_scores(self._matcher.join(sides[0], sides[1], modality))

    def _as_states(self, padded: NDArray[np.float32], attention: torch.Tensor, modality: Modality) -> ItemStates:
        most = self._text_width(modality)
        hidden = torch.from_numpy(padded)
        parts = hidden[:, : min(most, attention.shape[1])], hidden[:, most:], attention
        return ItemStates(*(part.to(self._device) for part in parts))

    def _text_width(self, modality: Modality) -> int:
        """How many vectors of a text are kept: as many as the longest one has."""
        return 0 if modality == "image" else self.settings.max_tokens

    def compare(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> Scores:
        """The scores (n,) of the network alone from the vectors (n, item_width) of both items of n pairs."""
        with torch.inference_mode():
            sides = [torch.from_numpy(side).to(self._device) for side in (first, second)]
            return _as_scores(self._matcher.compare(*sides))

    def _on_device(self, side: PairSide) -> PairSide:
        moved = to_device(side, self._device)
        return moved._replace(pixels=as_floats(moved.pixels))

    def _matcher_scores(self, source: ItemSource, pairs: Sequence[Pair], modality: Modality) -> Scores:
        batch = self._collator(source)(pairs)
        return self.matcher_scores(batch.first, batch.second, modality)

    def _collator(self, source: ItemSource) -> PairCollator:
        return PairCollator(source, self.tokenizer, self.settings.max_tokens)

    def _batches(self, sequence: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
        """Parts of a sequence that are computed at once, each with the number of its first element, from 1."""
        size = self.settings.batch_size
        yield from ((start + 1, sequence[start : start + size]) for start in range(0, len(sequence), size))

    def _score_items(self, pairs: Sequence[tuple[Item, Item]], first: int, modality: Modality) -> Scores:
        names = [
            Pair(f"pair {number}, item 1", f"pair {number}, item 2", 0) for number in range(first, first + len(pairs))
        ]
        where = [name for pair in names for name in (pair.item_a, pair.item_b)]
        items = [item for one, other in pairs for item in (one, other)]
        return self.score_source(read_items(items, where, modality, self.settings), names, modality)


def _load_network(folder: Path) -> ScoresPairs:
    """The network of torch, or the ONNX graphs, that a saved model holds."""
    graphs = read_config(folder).get("kind") == ONNX
    return OnnxMatcher.from_pretrained(folder) if graphs else load_matcher(folder)


def _as_scores(logits: torch.Tensor) -> Scores:
    return np.asarray(torch.sigmoid(logits.float()).double().cpu())


def _check_pairs(pairs: Any) -> None:
    """`InputError` unless these are pairs of items in a list."""
    _check_list(pairs, "pairs", PAIRS_FORM)
    for number, pair in enumerate(pairs, start=1):
        _check_pair(pair, f"pair {number}", PAIRS_FORM)


def _check_pair(pair: Any, where: str, form: str = PAIR_FORM) -> None:
    """`InputError` unless these are two items; what they are is checked where they are read."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        found = f"{len(pair)} of them" if isinstance(pair, tuple | list) else type(pair).__name__
        raise InputError(f"{where} is not two items but {found}; give {form}")


def _check_list(given: Any, what: str, form: str) -> None:
    """`InputError` unless it can be cut into batches: a generator, a data frame and one item alone cannot."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise InputError(f"the {what} are no list but {type(given).__name__}; give {form}")
