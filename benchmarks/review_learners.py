"""Who learns from the answers of reviewing.py: a random forest over similarities, or the network itself."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from mlim.data.batches import PairSide
from mlim.data.collate import Pair, PairCollator
from mlim.data.image_cache import ImageCache
from mlim.data.images import as_floats
from mlim.data.loader import BatchLoader, chunks
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import prepare_tokens
from mlim.files import read_json
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.steps.trained import MODEL_FOLDER, SUMMARY_FILE
from mlim.tasks.match import MatchObjective
from mlim.training.optim import build_optimizer, learning_rate, set_learning_rate
from mlim.workspace import Workspace

TREES, LEAF = 200, 3
ITEMS_AT_ONCE: Final = 256
PAIRS_AT_ONCE: Final = 4096
CACHED_MB: Final = 1024

Places = NDArray[np.int64]
Learner = Callable[[Sequence[int], int], NDArray[np.float64]]
"""From the places of the answered candidates, and a seed: what is thought of all candidates, (n,)."""


class Forest:
    """A random forest over similarities of texts, attributes and pictures."""

    name = "a random forest"

    def __init__(self, features: np.ndarray, truth: np.ndarray, trees: int = TREES) -> None:
        self._features, self._truth, self._trees = features, truth, trees

    def __call__(self, answered: Sequence[int], seed: int) -> NDArray[np.float64]:
        """Probabilities, from the answers alone."""
        forest = RandomForestClassifier(self._trees, min_samples_leaf=LEAF, random_state=seed)
        forest.fit(self._features[answered], self._truth[answered])
        return np.asarray(forest.predict_proba(self._features)[:, -1])


class Network:
    """The main variant's network, fine-tuned from its pre-training with read-out `separate`: items are encoded once."""

    name = "the network, fine-tuned from its pre-training after each round,"

    def __init__(self, recipe: Recipe, workspace: Workspace, given: pd.DataFrame, steps: int) -> None:
        """`given` (n,) are the candidates, with the answers as `label`."""
        self._recipe, self._steps = recipe, steps
        pretraining = str(recipe.main_variant.pretraining)
        self._start = workspace.pretrained(pretraining, recipe.seeds[0]) / MODEL_FOLDER
        store, tokenizer = open_items(recipe.loader, workspace), TextTokenizer.from_folder(self._start)
        tokens = prepare_tokens(store, tokenizer, workspace.cache)
        limit = read_json(self._start.parent / SUMMARY_FILE)["max_tokens"]
        self._collate = PairCollator(ImageCache(store, CACHED_MB), tokenizer, limit, tokens)
        columns = given[["item_a", "item_b", "label"]]
        self._pairs = [Pair(str(a), str(b), int(label)) for a, b, label in columns.itertuples(index=False)]
        self._items, places = np.unique(given[["item_a", "item_b"]].to_numpy(dtype=str), return_inverse=True)
        self._first, self._second = places.reshape(-1, 2).T

    def __call__(self, answered: Sequence[int], seed: int) -> NDArray[np.float64]:
        """Probabilities, from the answers alone."""
        config = self._recipe.finetune
        matcher = Matcher.from_mlim(Mlim.from_pretrained(self._start), config.head_dropout, seed, read_out="separate")
        self._train(matcher.train(), [self._pairs[place] for place in answered], seed)
        return self._score(matcher.eval())

    def _train(self, matcher: Matcher, pairs: Sequence[Pair], seed: int) -> None:
        config = self._recipe.finetune
        objective = MatchObjective(matcher, config, self._recipe.main_variant, seed)
        loader = BatchLoader(pairs, min(config.batch_size, len(pairs)), seed, self._collate)
        optimizer = build_optimizer(matcher, config.optim)
        torch.manual_seed(seed)
        for step in range(self._steps):
            set_learning_rate(optimizer, learning_rate(step, self._steps, config.optim))
            for _, term, weight in objective.losses(objective.prepare(next(loader), step)).terms:
                (weight * term.mean).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loader.close()

    @torch.inference_mode()
    def _score(self, matcher: Matcher) -> NDArray[np.float64]:
        vectors = torch.cat([self._encode(matcher, items) for items in chunks(self._items.tolist(), ITEMS_AT_ONCE)])
        parts = (slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(self._first), PAIRS_AT_ONCE))
        logits = [matcher.compare(vectors[self._first[part]], vectors[self._second[part]]) for part in parts]
        return torch.cat(logits).sigmoid().double().numpy()

    def _encode(self, matcher: Matcher, items: Sequence[str]) -> torch.Tensor:
        side: PairSide = self._collate.side(items)
        return matcher.item_vectors(side._replace(pixels=as_floats(side.pixels)), "both")
