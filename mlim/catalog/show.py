"""A look at a catalog before anything is trained on it: what the table holds, and a sheet of sampled items."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

from mlim.catalog.description import CatalogDescription, load_description
from mlim.catalog.images import ImageRules, Refusal, prepare_picture
from mlim.catalog.ingest import read_source
from mlim.errors import InputError
from mlim.files import atomic_file

EXAMPLE_ROWS = 3
SHOWN_CHARACTERS = 60
TILE = 160
CAPTION = 30
MARGIN = 8
COLUMNS = 6
SAMPLE_SEED = 0
SHEET_FORMATS = ("JPEG", "PNG", "WEBP")
SHEET_MEGAPIXELS = 40.0
SHEET_QUALITY = 90
CAPTION_CHARACTERS = TILE // 6  # Pillow's built-in font is six pixels wide


def describe(catalog: Path) -> Iterator[str]:
    """Lines that say what a catalog holds: rows, families, columns, what decides a match, a few examples."""
    description, frame = _read(catalog)
    family = description.columns.family
    yield f"{catalog}: {len(frame)} rows"
    if family is not None:
        sizes = frame.loc[frame[family] != "", family].value_counts()
        yield f"families: {len(sizes)} in column `{family}`, {int((sizes > 1).sum())} with more than one item"
    columns = list(dict.fromkeys((*description.text_columns, *description.fact_columns)))
    width = max(map(len, columns))
    for column in columns:
        values = frame[column]
        yield f"  {column:<{width}} {int((values != '').mean() * 100):>3} % filled, {values.nunique()} values"
    yield f"a pair matches when equal: {', '.join(description.pairs.decided_by) or 'given by the labelled file'}"
    for _, row in frame.head(EXAMPLE_ROWS).iterrows():
        texts = "; ".join(row[column] for column in description.text_columns if row[column])
        yield f"  {row[description.columns.id]}: {texts[:SHOWN_CHARACTERS]}"


def contact_sheet(catalog: Path, target: Path, items: int) -> None:
    """Draw sampled items with their ids to the PNG file `target`; what cannot be opened is shown as its reason."""
    description, frame = _read(catalog)
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: the sheet is a PNG; end its name in .png")
    sample = frame.sample(min(items, len(frame)), random_state=SAMPLE_SEED).sort_index()
    rows = -(-len(sample) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + MARGIN) + MARGIN, rows * (TILE + CAPTION + MARGIN) + MARGIN), "white")
    rules = ImageRules(description.images or Path(), SHEET_FORMATS, SHEET_MEGAPIXELS, TILE, SHEET_QUALITY)
    for place, (_, row) in enumerate(sample.iterrows()):
        corner = (MARGIN + place % COLUMNS * (TILE + MARGIN), MARGIN + place // COLUMNS * (TILE + CAPTION + MARGIN))
        _draw_tile(sheet, corner, row[description.columns.id], row[description.columns.image], rules)
    with atomic_file(target) as temporary:
        sheet.save(temporary, format="PNG")


def _read(catalog: Path) -> tuple[CatalogDescription, pd.DataFrame]:
    description = load_description(catalog)
    if description.source != "table":
        raise InputError(f"{catalog}: is drawn when it is ingested; `mlim catalog synthesize` makes one to look at")
    return description, read_source(description, str(catalog))


def _draw_tile(sheet: Image.Image, corner: tuple[int, int], name: str, image: str, rules: ImageRules) -> None:
    left, top = corner
    picture = prepare_picture(image.strip(), rules)
    pen = ImageDraw.Draw(sheet)
    if isinstance(picture, Refusal):
        pen.rectangle((left, top, left + TILE, top + TILE), outline="gray")
        pen.text((left + MARGIN, top + TILE // 2), picture.reason, fill="firebrick")
    else:
        with Image.open(io.BytesIO(picture.jpeg), formats=["JPEG"]) as tile:
            sheet.paste(tile, corner)
    pen.text((left, top + TILE + MARGIN // 2), name[:CAPTION_CHARACTERS], fill="black")
