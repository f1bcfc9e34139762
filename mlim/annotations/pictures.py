"""Which item of the catalog an annotation is about."""

import re
from collections.abc import Mapping, Sequence

COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})")


class Pictures:
    """The items of a catalog with their splits, found by any of the names that a public data set has for a picture."""

    def __init__(self, splits: Mapping[str, str], numbers: Mapping[str, Sequence[str]]) -> None:
        """`splits`: item -> split; `numbers`: the number of a picture in the files -> its names."""
        self._splits, self._numbers = splits, numbers
        self._coco = {str(int(found[1])): item for item in splits if (found := COCO_NAME.fullmatch(item))}

    def find(self, names: Sequence[str]) -> str | None:
        """The item with one of these names; None when the catalog has none."""
        for name in names:
            for known in (name, *self._numbers.get(name, ())):
                if known in self._splits:
                    return known
            if name.isdecimal() and (item := self._coco.get(str(int(name)))):
                return item
        return None

    def split(self, item: str) -> str:
        """The split of an item."""
        return self._splits[item]
