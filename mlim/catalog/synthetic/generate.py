"""The embedded catalog as files: a table, pictures, and the YAML that describes them."""

import csv
import hashlib
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mlim.catalog.synthetic.broken import break_rows
from mlim.catalog.synthetic.ceilings import measure_ceilings
from mlim.catalog.synthetic.families import LARGEST_FAMILY, SMALLEST_FAMILY, Draw, Member, draw_members, generator_for
from mlim.catalog.synthetic.look import Look, draw_look
from mlim.catalog.synthetic.products import PRODUCTS
from mlim.catalog.synthetic.render import render
from mlim.catalog.synthetic.wording import Texts, write_texts
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_folder

TABLE, IMAGES, DESCRIPTION = "catalog.csv", "images", "catalog.yaml"
DECIDED_BY, SAME = ("pattern", "size"), ("product_type",)
COLUMNS = ("item_id", "image", "family", *Texts._fields, *SAME, *DECIDED_BY)
LABELS = {"title": None, "colour": "colour", "material": "material", "details": None}
SMALLEST_IMAGE = 16
ID_DIGITS = 10
FOLDER_DIGITS = 2
JPEG_QUALITY = 92
CEILING_DIGITS = 3
CHUNK = 16  # pictures per message to a worker

Row = dict[str, str]


class Item(NamedTuple):
    """One item before its picture is rendered: its row of the table and its look."""

    row: Row
    look: Look


class _Order(NamedTuple):
    path: Path
    look: Look
    size: int


def synthesize(
    out: Path, items: int, seed: int, image_size: int, workers: int, terminal: Terminal, broken: bool = False
) -> None:
    """Write the embedded catalog to the folder `out`: catalog.csv, images/, catalog.yaml (all or nothing).

    `broken` appends one row per kind of fault, as a real catalog would have (`mlim.catalog.synthetic.broken`).

    Equal `items`, `seed` and `image_size` (pixels) give equal bytes, whatever the number of `workers` (processes).
    Raises `InputError` for impossible numbers and for a folder that holds something else.
    """
    _check(out, items, seed, image_size, workers)
    with atomic_folder(out) as folder:
        planned = plan_items(items, seed)
        rows = [item.row for item in planned]
        orders = [_Order(folder / IMAGES / item.row["image"], item.look, image_size) for item in planned]
        with terminal.progress("drawing pictures", items) as bar:
            for _ in _drawn(orders, workers):
                bar.advance()
        faulty = break_rows(rows, folder / IMAGES) if broken else []
        _write_table(folder / TABLE, [*rows, *faulty])
        described = {**describe(), "ceilings": _ceilings(rows)}
        (folder / DESCRIPTION).write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def plan_items(items: int, seed: int) -> list[Item]:
    """All items of a catalog, in the order of their ids (which tells nothing about families)."""
    return sorted(
        (plan_item(member, seed) for member in draw_members(items, seed)), key=lambda item: item.row["item_id"]
    )


def plan_item(member: Member, seed: int) -> Item:
    """One item: its look and its texts come from two generators, so that neither shifts the other."""
    family = member.family
    place = (seed, family.number, member.number)
    stands = PRODUCTS[family.product].stands
    look = draw_look(
        family.product,
        member.pattern,
        member.colour,
        family.trim,
        family.material,
        stands,
        generator_for(*place, Draw.LOOK),
    )
    texts = write_texts(member, generator_for(*place, Draw.TEXT))
    digits = _hash("item", *place)
    item_id = f"p{digits}"  # a letter first: nobody's reader takes it for a number
    row = {
        "item_id": item_id,
        "image": f"{digits[:FOLDER_DIGITS]}/{item_id}.jpg",
        "family": f"f{_hash('family', seed, family.number)}",
        **texts._asdict(),
        "product_type": family.product,
        "pattern": member.pattern,
        "size": member.size,
    }
    return Item(row, look)


def describe() -> dict[str, Any]:
    """What catalog.yaml says: where table and pictures are, what the columns mean, how pairs are decided."""
    return {
        "source": "table",
        "table": TABLE,
        "images": IMAGES,
        "columns": {
            "id": "item_id",
            "image": "image",
            "family": "family",
            "text": [{"column": column, "label": label} for column, label in LABELS.items()],
        },
        "pairs": {"decided_by": list(DECIDED_BY), "same": list(SAME), "max_family_size": LARGEST_FAMILY},
    }


def _ceilings(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    found = measure_ceilings(rows)
    return {name: round(getattr(found, name), CEILING_DIGITS) for name in ("text", "image", "both")}


def _check(out: Path, items: int, seed: int, image_size: int, workers: int) -> None:
    problems = [
        f"{name} is {value}, but must be at least {least}"
        for name, value, least in (
            ("items", items, SMALLEST_FAMILY),
            ("seed", seed, 0),
            ("image size", image_size, SMALLEST_IMAGE),
            ("workers", workers, 1),
        )
        if value < least
    ]
    if out.exists() and not out.is_dir():
        problems.append(f"{out}: is a file; name a folder for the catalog")
    elif out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        problems.append(f"{out}: holds something else than a catalog; name a new or empty folder")
    if problems:
        raise InputError(*problems)


def _hash(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:ID_DIGITS]


def _write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _drawn(orders: Sequence[_Order], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from map(_draw, orders)
        return
    # Fresh processes, not forks: the caller may hold threads (progress bar, torch) that must not be copied.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw, orders, chunksize=CHUNK)


def _draw(order: _Order) -> None:
    order.path.parent.mkdir(parents=True, exist_ok=True)
    render(order.look, order.size).save(order.path, "JPEG", quality=JPEG_QUALITY, subsampling=0)
