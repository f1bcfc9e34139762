"""Mutated pictures, tables and descriptions: whatever comes, the process lives and every row is accounted for."""

import io
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from mlim.console import Terminal
from mlim.errors import MlimError
from mlim.steps.ingest import check_catalog, ingest
from mlim.workspace import Workspace
from tests.small_catalog import described, recipe, small_catalog

PICTURES = 10_000
TABLES = 2_000  # in the slow tier, all of them through the whole step
FEWER_TABLES = 600  # in the default tier
INGESTED_TABLES = 40  # of these, go through the whole step; the rest up to the decoding
TOLERANT = ("ingest.max_quarantined_share=1.0", "ingest.rows_per_shard=500", "ingest.decode_seconds=5")
FORMATS = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("PNG", {"compress_level": 0}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
)
WRITES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "P", "RGBA", "I;16"), "WEBP": ("RGB", "RGBA")}


def seeds() -> list[bytes]:
    """Valid pictures of every format and mode, to be broken."""
    coarse = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((56, 72), Image.Resampling.BICUBIC)
    made = []
    for kind, options in FORMATS:
        for mode in WRITES[kind]:
            target = io.BytesIO()
            deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) << 8)
            (deep if mode == "I;16" else photo.convert(mode)).save(target, kind, **options)
            made.append(target.getvalue())
    return made


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip, overwrite, cut out, repeat or insert bytes in a few places."""
    broken = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not broken:
            break
        start = chance.randrange(len(broken)) if chance.random() < 0.5 else chance.randrange(min(64, len(broken)))
        length = chance.choice((1, 1, 2, 4, 32))
        kind = chance.randrange(6)
        if kind == 0:
            broken[start] ^= 1 << chance.randrange(8)
        elif kind == 1:
            broken[start : start + length] = chance.randbytes(length)
        elif kind == 2:
            del broken[start : start + length * 8]
        elif kind == 3:
            broken[start:start] = broken[start : start + length * 4]
        elif kind == 4:
            broken[start : start + length] = chance.choice((b"\x00", b"\xff", b"\x7f")) * length
        else:
            del broken[start:]
    return bytes(broken)


def assert_every_row_is_accounted_for(workspace: Workspace, summary: dict, rows: int | None = None) -> None:
    row_log = pq.read_table(workspace.items / "ledger.parquet").to_pandas()
    assert summary["rows_in"] == len(row_log) == summary["ingested"] + sum(summary["quarantined"].values())
    assert rows is None or len(row_log) == rows
    assert int(row_log["reason"].isna().sum()) == summary["ingested"]


def test_ten_thousand_mutated_pictures(tmp_path):
    chance, originals = random.Random(0), seeds()
    images = tmp_path / "images"
    images.mkdir()
    lines = ["sku,picture,product,title,colour,pattern"]
    for number in range(PICTURES):
        (images / f"{number}.x").write_bytes(mutate(originals[number % len(originals)], chance))
        lines.append(f"{number},{number}.x,p{number % 7},thing {number},red,plain")
    (tmp_path / "catalog.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(described()))
    workspace = Workspace(tmp_path / "work")
    summary = ingest(recipe(*TOLERANT, "ingest.workers=2"), tmp_path / "catalog.yaml", workspace, Terminal(quiet=True))
    assert_every_row_is_accounted_for(workspace, summary, PICTURES)
    assert summary["ingested"] > PICTURES // 20
    assert summary["quarantined"]["not-an-image"] > PICTURES // 20


def table_texts() -> dict[str, bytes]:
    """A good table in every text format."""
    names = ("sku", "picture", "product", "title", "colour", "pattern")
    rows = [(f"00{n}", f"{n % 6}.png", f"p{n // 2}", f"thing “{n}” é 🎽", "red", "plain") for n in range(24)]
    quoted = [[f'"{cell}"' for cell in row] for row in (names, *rows)]
    objects = ["{" + ", ".join(f'"{k}": "{v}"' for k, v in zip(names, row, strict=True)) + "}" for row in rows]
    return {
        "catalog.csv": "\n".join(",".join(row) for row in quoted).encode(),
        "catalog.tsv": "\n".join("\t".join(row) for row in quoted).encode(),
        "catalog.jsonl": "\n".join(objects).encode(),
    }


def parquet_bytes(text: bytes) -> bytes:
    import pandas as pd

    target = io.BytesIO()
    pd.read_csv(io.BytesIO(text), dtype=str).to_parquet(target)
    return target.getvalue()


def mutated_catalogs(folder: Path, tables_in_all: int):
    """Catalogs of which the table or the description is broken, one after the other in the same folder."""
    tables = table_texts()
    tables["catalog.parquet"] = parquet_bytes(tables["catalog.csv"])
    chance, names = random.Random(1), sorted(tables)
    for number in range(tables_in_all):
        name = names[number % len(names)]
        description = yaml.safe_dump(described(table=name)).encode()
        breaks_description = number % 5 == 0
        (folder / name).write_bytes(tables[name] if breaks_description else mutate(tables[name], chance))
        (folder / "catalog.yaml").write_bytes(mutate(description, chance) if breaks_description else description)
        yield number, folder / "catalog.yaml"


def run_or_refuse(step, *arguments) -> dict | None:
    """What a step returns; None when it refuses in words. Anything else that is raised fails the test."""
    try:
        return step(*arguments)
    except MlimError as error:
        message = str(error)
    assert message.strip()
    assert "Traceback" not in message
    return None


def ingest_mutated(folder: Path, tables: int, every: int) -> list[bool]:
    """Check so many mutated catalogs, ingest each `every`-th; whether each of those came through."""
    small_catalog(folder)
    through = []
    for number, path in mutated_catalogs(folder, tables):
        workspace = Workspace(folder / f"work-{number}")
        settings = recipe(*TOLERANT)
        run_or_refuse(check_catalog, settings, path, workspace)
        if number % every:
            continue
        summary = run_or_refuse(ingest, settings, path, workspace, Terminal(quiet=True))
        if summary is not None:
            assert_every_row_is_accounted_for(workspace, summary)
        else:
            assert not workspace.items.exists()
        through.append(summary is not None)
    return through


def test_hundreds_of_mutated_tables_and_descriptions(tmp_path):
    through = ingest_mutated(tmp_path, FEWER_TABLES, FEWER_TABLES // INGESTED_TABLES - 1)
    assert any(through)
    assert not all(through)


@pytest.mark.slow
def test_two_thousand_mutated_tables_and_descriptions_through_the_whole_step(tmp_path):
    through = ingest_mutated(tmp_path, TABLES, 1)
    assert len(through) == TABLES
    assert sum(through) > TABLES // 4
