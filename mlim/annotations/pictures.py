"""Which item of the catalog an annotation is about."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mlim.annotations.names import Names, coco_number
from mlim.annotations.records import Place
from mlim.errors import InputError


class Pictures:
    """The items of a catalog with their splits, found by what a public data set calls a picture."""

    def __init__(self, splits: Mapping[str, str], numbers: Mapping[str, Sequence[str]]) -> None:
        """`splits`: item -> split; `numbers`: a number that COCO-layout files give -> the names of its pictures."""
        self._splits, self._numbers = splits, numbers
        self._coco: dict[int, set[str]] = defaultdict(set)
        for item in splits:
            if (number := coco_number(item)) is not None:
                self._coco[number].add(item)

    def find(self, names: Names, place: Place | None = None) -> str | None:
        """The item with one of these names; None when the catalog has none.

        `InputError`, with the place where the names were read, when they fit several items.
        """
        candidates = sorted(self._candidates(names))
        if len(candidates) > 1:
            where = "" if place is None else f"{place.file}: line {place.row}: "
            raise InputError(
                f"{where}the picture `{names.first}` may be item `{candidates[0]}` or `{candidates[1]}`; take one of "
                "them out of the catalog, or name the picture by the id of its item"
            )
        return candidates[0] if candidates else None

    def _candidates(self, names: Names) -> set[str]:
        """The items that are meant; an equal id says which of several items with one number of COCO is."""
        listed = self._numbers.get(names.listed, ()) if names.listed is not None else ()
        exact = {text for text in (*names.texts, *listed) if text in self._splits}
        numbered = self._coco.get(names.coco, set()) if names.coco is not None else set[str]()
        return exact if exact & numbered else exact | numbered

    def split(self, item: str) -> str:
        """The split of an item."""
        return self._splits[item]
