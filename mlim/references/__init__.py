"""What a paper reports and claims, to stand beside our own results: one YAML file of this package for each paper.

Names of variants are those of the recipes that come with the package. Nothing here decides how a model is trained.
"""

from functools import cache
from importlib import resources
from typing import Any, Final

from mlim.config import Config, load_yaml, nearest, parse
from mlim.errors import InputError
from mlim.recipe.tasks import FinetuneTask
from mlim.references.claims import Claim, TaskVariants, Variants

MLIM: Final = "mlim"
SUFFIX: Final = ".yaml"


class PaperTable(Config):
    """The figures that one table of the paper reports, by variant.

    `data` is what they were measured on; of a task besides matching, `figure` is the name of ours that is the same.
    """

    key: str
    title: str
    variants: dict[str, float]
    task: FinetuneTask = "match"
    figure: str | None = None
    data: str = ""


class FixedSetting(Config):
    """The value of a setting of the recipe as the paper gives it, and where."""

    value: Any
    source: str


class Reference(Config):
    """One paper. `scale` says how large its model is, `margin` which difference of the metric still counts as none."""

    title: str
    authors: str
    identifier: str
    scale: str
    margin: float
    tables: tuple[PaperTable, ...]
    claims: tuple[Claim, ...]
    settings: dict[str, FixedSetting]

    def figure(self, table: str, variant: str) -> float | None:
        """What a table of the paper reports for a variant; None where it does not."""
        return next((each.variants.get(variant) for each in self.tables if each.key == table), None)

    def reports(self, variant: str) -> bool:
        """Whether a variant is in any of the paper's tables."""
        return any(variant in table.variants for table in self.tables)

    def difference(self, variants: Variants | TaskVariants) -> float | None:
        """The difference of two variants in the first of the paper's tables that holds both; None where none does.

        Of a task, only tables of the same figure count.
        """
        asked = (variants.task, variants.figure) if isinstance(variants, TaskVariants) else ("match", None)
        return next(
            (
                table.variants[variants.first] - table.variants[variants.second]
                for table in self.tables
                if {variants.first, variants.second} <= table.variants.keys() and (table.task, table.figure) == asked
            ),
            None,
        )

    def of_task(self, task: FinetuneTask) -> tuple[PaperTable, ...]:
        """The tables of a task."""
        return tuple(table for table in self.tables if table.task == task)


def reference_names() -> list[str]:
    """The names of all papers."""
    entries = (entry.name for entry in (resources.files("mlim") / "references").iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in entries if name.endswith(SUFFIX))


@cache
def load_reference(name: str = MLIM) -> Reference:
    """A paper by name; `InputError` for one that is not there."""
    if name not in reference_names():
        raise InputError(f"unknown reference `{name}`{nearest(name, reference_names())}")
    text = (resources.files("mlim") / "references" / f"{name}{SUFFIX}").read_text("utf-8")
    return parse(Reference, load_yaml(text), f"reference {name}")
