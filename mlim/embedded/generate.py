"""The embedded catalog as files: a table, pictures, and the YAML that describes them."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from mlim.catalog.defaults import (
    ANNOTATION_FOLDER,
    EMBEDDED_DECIDED_BY,
    EMBEDDED_IMAGES,
    EMBEDDED_SAME,
    EMBEDDED_TABLE,
    Task,
    annotation_files,
    describe_embedded,
)
from mlim.console import Terminal
from mlim.embedded.broken import break_rows
from mlim.embedded.ceilings import measure_ceilings
from mlim.embedded.drawing import FOLDER_DIGITS, SMALLEST_IMAGE, Order, drawn, name_of
from mlim.embedded.families import SMALLEST_FAMILY, Draw, Member, draw_members, generator_for
from mlim.embedded.look import Look, draw_look
from mlim.embedded.products import PRODUCTS
from mlim.embedded.wording import Texts, name_pattern, write_texts
from mlim.errors import InputError
from mlim.files import atomic_folder, check_claim, mark
from mlim.processes import processes_for

DESCRIPTION = "catalog.yaml"
COLUMNS = ("item_id", "image", "family", *Texts._fields, *EMBEDDED_SAME, *EMBEDDED_DECIDED_BY)
CEILING_DIGITS = 3

Row = dict[str, str]


class Item(NamedTuple):
    """One item before its picture is rendered: its row of the table, its look, and the truth about it."""

    row: Row
    look: Look
    member: Member


Annotate = Callable[[Path, Sequence[Item], int, int], None]  # folder, items, seed, side of the pictures


def synthesize(
    out: Path,
    items: int,
    seed: int,
    image_size: int,
    workers: int,
    terminal: Terminal,
    broken: bool = False,
    named_pattern: float = 0.0,
    task: Task = "variant",
    annotate: Annotate | None = None,
) -> None:
    """Write the embedded catalog to the folder `out`: catalog.csv, images/, catalog.yaml (all or nothing).

    `broken` appends one row per kind of fault, as a real catalog would have (`mlim.embedded.broken`);
    `named_pattern` is the share of the items whose title names the pattern; `task` is what a match means: the same
    `variant` of a product, or the same `product`; `annotate` writes annotations (`mlim.embedded.told`).

    Equal arguments (`image_size` in pixels) give equal bytes, whatever the number of `workers` (processes).
    Raises `InputError` for impossible numbers and for a folder that holds something that mlim did not make.
    """
    _check(out, items, seed, image_size, workers, named_pattern)
    if annotate is not None and task == "product":
        raise InputError(
            "--annotations names the product in each picture, which decides the pairs of --task product; leave out one "
            "of the two"
        )
    with atomic_folder(out) as folder:
        mark(folder)
        planned = plan_items(items, seed, named_pattern)
        rows = [item.row for item in planned]
        orders = [Order(folder / EMBEDDED_IMAGES / item.row["image"], (item.look,), image_size) for item in planned]
        with terminal.progress("drawing pictures", items) as bar:
            for _ in drawn(orders, workers):
                bar.advance()
        faulty = break_rows(rows, folder / EMBEDDED_IMAGES) if broken else []
        _write_table(folder / EMBEDDED_TABLE, [*rows, *faulty])
        described = describe_embedded(task)
        if task == "variant":
            best = measure_ceilings(rows)
            ceilings = {name: round(getattr(best, name), CEILING_DIGITS) for name in ("text", "image", "both")}
            described = described | {"ceilings": ceilings}
        if annotate is not None:
            annotate(folder / ANNOTATION_FOLDER, planned, seed, image_size)
            described = described | {"annotations": {"files": annotation_files()}}
        (folder / DESCRIPTION).write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def plan_items(items: int, seed: int, named_pattern: float = 0.0) -> list[Item]:
    """All items of a catalog, in the order of their ids (which tells nothing about families)."""
    return sorted(
        (plan_item(member, seed, named_pattern) for member in draw_members(items, seed)),
        key=lambda item: item.row["item_id"],
    )


def plan_item(member: Member, seed: int, named_pattern: float = 0.0) -> Item:
    """One item: its look, its texts and a named pattern come from three generators, so that none shifts another."""
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
    texts = name_pattern(texts, member.pattern, named_pattern, generator_for(*place, Draw.NAMED))
    digits = name_of("item", *place)
    item_id = f"p{digits}"  # a letter first: no reader parses it as a number
    row = {
        "item_id": item_id,
        "image": f"{digits[:FOLDER_DIGITS]}/{item_id}.jpg",
        "family": f"f{name_of('family', seed, family.number)}",
        **texts._asdict(),
        "product_type": family.product,
        "pattern": member.pattern,
        "size": member.size,
    }
    return Item(row, look, member)


def _check(out: Path, items: int, seed: int, image_size: int, workers: int, named_pattern: float) -> None:
    processes_for(workers, "workers")
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
    if not 0 <= named_pattern <= 1:
        problems.append(f"named pattern is {named_pattern:g}, but must be a share between 0 and 1")
    try:
        check_claim(out, str(out))
    except InputError as problem:
        problems += problem.problems
    if problems:
        raise InputError(*problems)


def _write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
