"""`mlim candidates`: the pairs of a whole catalog that are worth scoring, and how many known matches they keep."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mlim.catalog.description import CatalogDescription, load_description
from mlim.config import PLAIN_NAME
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_folder, read_json, write_json
from mlim.matching.candidates import BLOCK, Found, Places, candidate_store
from mlim.matching.columns import read_rules
from mlim.matching.completeness import ALL, pair_completeness, recall_at, shares
from mlim.matching.index import IndexSettings, VectorIndex, index_origin
from mlim.matching.nearest import Neighbours
from mlim.matching.picture_vectors import PICTURE_ORIGIN, picture_vectors
from mlim.matching.text_vectors import TextEncoder, fit_text_encoder, text_vectors
from mlim.matching.text_words import FORMAT as WORDS_FORMAT
from mlim.matching.vectors import Vectors, open_vectors
from mlim.pairs.labels import MATCH, TRAIN
from mlim.recipe import Recipe
from mlim.recipe.match import CandidatesConfig
from mlim.shards.belonging import check_index
from mlim.workspace import Workspace

CANDIDATES_FILE, SUMMARY_FILE = "candidates.parquet", "summary.json"
TEXT, PICTURE = "text", "picture"
ENCODER_FILE, ENCODER_KEY = "encoder.npz", "encoder.json"
COLUMNS: Final = ["id", "family", "text", "attributes", "facts", "image_hash"]
SAMPLED_TEXTS: Final = 200_000  # from which the encoder learns
ALL_SPLITS: Final = "all"


@dataclass(frozen=True)
class _Inputs:
    """What candidates are made from; `items` are in the order of their ids, `known` matches name their places."""

    recipe: Recipe
    settings: CandidatesConfig
    workspace: Workspace
    description: CatalogDescription
    items: pd.DataFrame
    known: pd.DataFrame

    @cached_property
    def ids(self) -> list[str]:
        return [str(item) for item in self.items["id"].tolist()]

    @property
    def known_sides(self) -> tuple[Places, Places]:
        """The places of both items of every known match."""
        return self.known["first"].to_numpy(), self.known["second"].to_numpy()

    @property
    def index_settings(self) -> IndexSettings:
        return IndexSettings(self.settings.exact_below, self.settings.probes, self.recipe.seed)


def find_candidates(
    recipe: Recipe,
    catalog: Path,
    workspace: Workspace,
    terminal: Terminal,
    given: Sequence[str] = (),
    *,
    trained_across_families: bool = True,
) -> dict[str, Any]:
    """Write candidates.parquet and summary.json; return the summary.

    `given` are sets of vectors, NAME=FOLDER each. `trained_across_families`: see `MatchRules.with_families`. Needs
    `validate`; with the pairs of `mlim pairs`, how many known matches are kept is reported too. `InputError` for
    vectors or an index of another model.
    """
    inputs, vectors = _read(recipe, catalog, workspace), _given(given)
    settings = inputs.settings
    matching = inputs.description.matching.with_families(trained_across_families)
    blocks, rules = read_rules(inputs.items, matching, inputs.description.values)
    with (
        atomic_folder(workspace.candidates) as folder,
        candidate_store(len(inputs.items), settings.memory_mb, rules, inputs.known_sides) as found,
    ):
        for block in blocks:
            found.add_block(block, settings.max_block)
        for name, near in _ways(inputs, vectors, terminal):
            with terminal.waiting(f"nearest neighbours by {name}"):
                found.add_neighbours(name, near)
        counts = found.write(folder / CANDIDATES_FILE, inputs.ids)
        summary = {
            "items": len(inputs.items),
            **counts,
            **shares(counts["candidates"], len(inputs.items)),
            "ways": found.counts(),
            "items_in_large_blocks": found.left_out,
            "items_without_number": {block.name: block.unread for block in blocks if block.unread},
            **_known_kept(inputs, found),
        }
        write_json(folder / SUMMARY_FILE, summary)
    _report(summary, terminal)
    return summary


def _read(recipe: Recipe, catalog: Path, workspace: Workspace) -> _Inputs:
    index = workspace.valid / "index.parquet"
    if not index.is_file():
        raise InputError(f"{index} is missing; run `mlim validate` first")
    if not recipe.loader.items:
        check_index(index, workspace.items)
    description = load_description(catalog)
    items = pq.read_table(index, columns=COLUMNS).to_pandas().sort_values("id", ignore_index=True)
    known = _known_matches(workspace, items, description.pairs.max_family_size)
    return _Inputs(recipe, recipe.match.candidates, workspace, description, items, known)


def _known_matches(workspace: Workspace, items: pd.DataFrame, max_family_size: int) -> pd.DataFrame:
    """first, second (places in `items`), split, kind of the matches of `mlim pairs`; without it, pairs of families."""
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        return _family_pairs(items, max_family_size)
    pairs = pd.read_parquet(path)
    matches = pairs[pairs["label"] == MATCH]
    place = pd.Series(np.arange(len(items)), index=items["id"])
    sides = matches["item_a"].map(place), matches["item_b"].map(place)
    if any(side.isna().any() for side in sides):
        raise InputError(f"{path}: names items that are not accepted any more; run `mlim pairs` again")
    first, second = (side.to_numpy(dtype=np.int64) for side in sides)
    known = pd.DataFrame({"first": first, "second": second, "split": matches["split"].to_numpy(dtype=object)})
    return known.assign(kind=matches["kind"].to_numpy(dtype=object))


def _family_pairs(items: pd.DataFrame, max_family_size: int) -> pd.DataFrame:
    members = pd.DataFrame({"family": items["family"], "place": np.arange(len(items))}).dropna()
    size = members.groupby("family")["place"].transform("size")
    members = members[(size > 1) & (size <= max_family_size)]
    pairs = members.merge(members, on="family")
    pairs = pairs[pairs["place_x"] < pairs["place_y"]]
    known = pd.DataFrame({"first": pairs["place_x"], "second": pairs["place_y"]}).astype(np.int64)
    return known.assign(split=ALL_SPLITS, kind="same family")


def _given(given: Sequence[str]) -> dict[str, Vectors]:
    """The vectors that were given by name; `InputError` for a name that is none, or stands for something else."""
    found: dict[str, Vectors] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not PLAIN_NAME.fullmatch(name):
            raise InputError(f"--vectors {text}: write it as NAME=FOLDER, NAME of letters, digits, `.`, `_` and `-`")
        if name in (TEXT, PICTURE, *found):
            raise InputError(f"--vectors {text}: `{name}` is taken; choose another name")
        found[name] = open_vectors(Path(folder))
    return found


def _ways(
    inputs: _Inputs, given: Mapping[str, Vectors], terminal: Terminal
) -> Iterator[tuple[str, Iterator[Neighbours]]]:
    """Each way by nearest neighbours that is asked for, and what it finds, in places of the items."""
    wanted = inputs.settings.neighbours
    if wanted.text:
        encoder, folder = _encoder(inputs), inputs.workspace.cache / "text-vectors"
        vectors = text_vectors(folder, inputs.ids, inputs.items["text"].tolist(), encoder)
        yield TEXT, _index(inputs, TEXT, vectors).neighbours(vectors.ids, wanted.text)
    if wanted.picture:
        vectors = Vectors(inputs.ids, picture_vectors(inputs.items["image_hash"].tolist()), PICTURE_ORIGIN)
        yield PICTURE, _index(inputs, PICTURE, vectors).neighbours(vectors.ids, wanted.picture)
    for name, of_name in given.items() if wanted.vectors else ():
        vectors, places = _of_catalog(inputs, name, of_name, terminal)
        near = _index(inputs, name, vectors, rebuild=False).neighbours(vectors.ids, wanted.vectors)
        yield name, (found._replace(first=places[found.first], second=places[found.second]) for found in near)


def _index(inputs: _Inputs, name: str, vectors: Vectors, rebuild: bool = True) -> VectorIndex:
    """The index of that name in the work folder, brought up to date; made anew where it is missing or outgrown.

    One of another origin is made anew too if `rebuild`, else it is an `InputError`.
    """
    folder, settings = inputs.workspace.indexes / name, inputs.index_settings
    if folder.is_dir() and not (rebuild and index_origin(folder) != vectors.origin):
        index = VectorIndex(folder, vectors.origin, settings)
        index.update(vectors)
        if not index.outgrown:
            return index
    return VectorIndex.build(folder, vectors, settings)


def _encoder(inputs: _Inputs) -> TextEncoder:
    """The encoder of texts, kept as long as it would learn the same words from the same matches and settings."""
    folder, dimensions = inputs.workspace.indexes / "text-encoder", inputs.settings.text_dimensions
    learned = inputs.known[inputs.known["split"] == TRAIN]
    ids = inputs.items["id"].to_numpy()
    matches = [ids[learned[side]].tolist() for side in ("first", "second")]
    deciding = [WORDS_FORMAT, dimensions, inputs.recipe.seed, matches]
    key = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()
    if (folder / ENCODER_KEY).is_file() and read_json(folder / ENCODER_KEY)["key"] == key:
        return TextEncoder.load(folder / ENCODER_FILE)
    places = _sampled(inputs, learned)
    texts = inputs.items["text"].iloc[places].tolist()
    first, second = (np.searchsorted(places, learned[side]) for side in ("first", "second"))
    encoder = fit_text_encoder(texts, first, second, dimensions, inputs.recipe.seed)
    with atomic_folder(folder) as made:
        encoder.save(made / ENCODER_FILE)
        write_json(made / ENCODER_KEY, {"key": key, "origin": encoder.origin})
    return encoder


def _sampled(inputs: _Inputs, learned: pd.DataFrame) -> Places:
    """Places, in order, of every so many items and of all that the encoder learns matches from."""
    step = max(len(inputs.items) // SAMPLED_TEXTS, 1)
    matched = np.concatenate([learned["first"], learned["second"]]).astype(np.int64)
    return np.union1d(np.arange(0, len(inputs.items), step), matched)


def _of_catalog(inputs: _Inputs, name: str, vectors: Vectors, terminal: Terminal) -> tuple[Vectors, Places]:
    """The vectors of accepted items, in the order of their ids, and these items' places."""
    place = pd.Series(np.arange(len(vectors.ids)), index=list(vectors.ids)).reindex(inputs.items["id"])
    places = np.flatnonzero(place.notna())
    if not len(places) and len(inputs.items):
        raise InputError(f"--vectors {name}: none of its ids is an item of the catalog; check which catalog it is of")
    lacking, unknown = len(inputs.items) - len(places), len(vectors.ids) - len(places)
    if lacking or unknown:
        terminal.warn(f"{name}: {lacking} items have no vector, {unknown} vectors are of no accepted item")
    rows = place.to_numpy()[places].astype(np.int64)
    in_order = len(rows) == len(vectors.ids) and bool((rows == np.arange(len(rows))).all())
    values = vectors.values if in_order else vectors.values[rows]
    return Vectors(inputs.items["id"].iloc[places].tolist(), values, vectors.origin), places


def _known_kept(inputs: _Inputs, found: Found) -> dict[str, Any]:
    known, wanted = inputs.known, inputs.settings.neighbours
    most = {TEXT: wanted.text, PICTURE: wanted.picture}
    sides = inputs.known_sides
    ranks = found.ranks_of(*sides)
    recall = {
        str(split): {
            way: recall_at(known[rows], of_way[rows], most.get(way, wanted.vectors))
            for way, of_way in ranks.items()
            if not way.startswith(BLOCK)
        }
        for split, rows in ((split, (known["split"] == split).to_numpy()) for split in known["split"].unique())
    }
    return {"pair_completeness": pair_completeness(known, found.kept(*sides)), "recall_at": recall}


def _report(summary: Mapping[str, Any], terminal: Terminal) -> None:
    terminal.say(
        f"{summary['candidates']:,} candidates of {summary['items']:,} items: {summary['share_of_all_pairs']:.2%} of "
        "all pairs"
    )
    for split, kinds in summary["pair_completeness"].items():
        terminal.say(f"{kinds[ALL]['share']:.1%} of {kinds[ALL]['matches']:,} known {split} matches are among them")
    for way, left in summary["items_in_large_blocks"].items():
        if left:
            terminal.warn(f"{way}: {left:,} items are in blocks larger than match.candidates.max_block and left out")
    for rule, unread in summary["items_without_number"].items():
        terminal.warn(
            f"matching.blocks: {rule}: {unread:,} items have a value that is no positive number with a decimal point "
            "(12.50), so that this rule leaves them out"
        )
