"""How a scorer behaves where the answer is known without labels: swapped items, identical ones, unrelated parts.

Test cases are rows of item ids, one for each of the four inputs that a client sends (`FIELDS`): whoever can score items
can run them. Sampled, and the same for the same seed.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.recipe.base import Modality

FIELDS: Final = ("text_a", "image_a", "text_b", "image_b")
PLAIN, SWAPPED, IDENTICAL, MATCHING = "plain", "swapped", "identical", "matching"
REPLACED: Final = {"image": "image_b", "text": "text_b"}  # what comes from an unrelated item, by what it is
SHOWN: Final[dict[Modality, tuple[str, ...]]] = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}


def fields_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """The columns `FIELDS` of pairs (item_a, item_b): each item's own text and picture."""
    return pd.DataFrame({field: pairs[f"item_{field[-1]}"].to_numpy() for field in FIELDS}, columns=list(FIELDS))


def draw_cases(pairs: pd.DataFrame, items: pd.DataFrame, modality: Modality, size: int, seed: int) -> pd.DataFrame:
    """Test cases with the columns case and `FIELDS`; at most `size` of each case.

    `pairs` (item_a, item_b, label) are drawn from, `items` (id, component, category) hold the unrelated ones: of
    another component (family) and, where there is one, of another category. What `modality` hides is not replaced.
    """
    generator = np.random.default_rng(seed)
    plain = _sample(pairs, size, generator)
    own = pd.DataFrame({"id": sorted({*pairs["item_a"], *pairs["item_b"]})})
    chosen = _sample(own, size, generator)["id"]
    matching = _sample(pairs[pairs["label"] == 1], size, generator)
    unrelated = _unrelated(matching["item_a"], items, generator)
    matching, unrelated = matching[unrelated.notna().to_numpy()], unrelated.dropna()
    cases = {
        PLAIN: fields_of(plain),
        SWAPPED: fields_of(plain.rename(columns={"item_a": "item_b", "item_b": "item_a"})),
        IDENTICAL: fields_of(pd.DataFrame({"item_a": chosen, "item_b": chosen})),
        MATCHING: fields_of(matching),
        **{what: fields_of(matching).assign(**{REPLACED[what]: unrelated.to_numpy()}) for what in SHOWN[modality]},
    }
    return pd.concat([fields.assign(case=case) for case, fields in cases.items()], ignore_index=True)


def _sample(frame: pd.DataFrame, size: int, generator: np.random.Generator) -> pd.DataFrame:
    chosen = generator.permutation(len(frame))[:size]
    return frame.iloc[np.sort(chosen)]


def _unrelated(own: pd.Series, items: pd.DataFrame, generator: np.random.Generator) -> "pd.Series[Any]":
    """An item that has nothing to do with each of `own`; None where there is none."""
    known = items.set_index("id")
    ids, component, category = (items[name].to_numpy() for name in ("id", "component", "category"))
    found = []
    for item in own:
        elsewhere = component != known.at[item, "component"]
        other = elsewhere & (category != known.at[item, "category"])
        candidates = ids[other if other.any() else elsewhere]
        found.append(generator.choice(candidates) if len(candidates) else None)
    return pd.Series(found, dtype=object)


def behaviour_of(cases: pd.DataFrame, probability: NDArray[np.float64], match: NDArray[np.bool_]) -> dict[str, Any]:
    """What the answers (n,) to the cases say, JSON-able; a figure is None where there was no case.

    `swap_difference` is the largest change of a probability when the items change places, `identical_right` the share
    of items that match themselves, `matching` the mean probability of matching pairs, and `unrelated` the same with
    another item's picture or text (by what was replaced).
    """
    by_case = {str(case): rows.index.to_numpy() for case, rows in cases.groupby("case")}
    swapped = probability[by_case[PLAIN]] - probability[by_case[SWAPPED]]
    replaced = {what: float(probability[by_case[what]].mean()) for what in REPLACED if what in by_case}
    return {
        "pairs": len(swapped),
        "swap_difference": float(np.abs(swapped).max()),
        "items": len(by_case[IDENTICAL]),
        "identical_right": float(match[by_case[IDENTICAL]].mean()),
        "matches": len(by_case.get(MATCHING, ())),
        "matching": float(probability[by_case[MATCHING]].mean()) if MATCHING in by_case else None,
        "unrelated": replaced,
    }
