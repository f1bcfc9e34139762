"""A small real catalog on disk for the tests of the catalog room."""

import csv
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from mlim.console import Terminal
from mlim.recipe import Recipe, load_recipe
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace

COLUMNS = ("sku", "picture", "product", "title", "colour", "pattern")
COLOURS = ("red", "green", "blue")


@dataclass
class SmallCatalog:
    """Rows can be changed before `write`; one picture is drawn for every row at the start."""

    folder: Path
    rows: list[dict[str, str]]

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def description(self) -> Path:
        return self.folder / "catalog.yaml"

    def write(self, **changes) -> Path:
        with (self.folder / "catalog.csv").open("w", encoding="utf-8", newline="") as target:
            writer = csv.DictWriter(target, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        self.description.write_text(yaml.safe_dump(described(**changes)), encoding="utf-8")
        return self.description

    def ingest(self, *assignments: str, work: str = "work", **changes) -> dict:
        return ingest(recipe(*assignments), self.write(**changes), Workspace(self.folder / work), Terminal(quiet=True))

    def work(self, name: str = "work") -> Workspace:
        return Workspace(self.folder / name)


def described(**changes) -> dict:
    return {
        "source": "table",
        "table": "catalog.csv",
        "images": "images",
        "columns": {
            "id": "sku",
            "image": "picture",
            "family": "product",
            "text": ["title", {"column": "colour", "label": "colour"}],
        },
        "pairs": {"decided_by": ["pattern"]},
        **changes,
    }


def recipe(*assignments: str) -> Recipe:
    return load_recipe("demo", ["ingest.workers=1", *assignments])


def small_catalog(folder: Path, rows: int = 6) -> SmallCatalog:
    (folder / "images").mkdir(parents=True)
    made = []
    for number in range(rows):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (40, 60), colour).save(folder / "images" / f"{number}.png")
        made.append(
            {
                "sku": f"00{number}",
                "picture": f"{number}.png",
                "product": f"p{number // 2}",
                "title": f"thing {number}",
                "colour": colour,
                "pattern": "plain",
            }
        )
    return SmallCatalog(folder, made)
