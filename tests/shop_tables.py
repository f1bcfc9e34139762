"""Tables as shops export them, with their images."""

import csv

import pandas as pd
from PIL import Image

from mlim.sources.starter import starter_yaml


def write_variants(folder):
    """Eight products of three variants and a row that only adds a picture, as a shop exports them."""
    (folder / "files").mkdir()
    rows = []
    for number in range(8):
        for place, colour in enumerate(("red", "blue", "red", "")):
            first = place == 0
            shade = (30 * number, 60 * place, 9)
            name = f"{number}-{place}.png"
            Image.new("RGB", (40, 40), shade).save(folder / "files" / name)
            rows.append(
                {
                    "Handle": f"modern-mug-{number}",
                    "Title": f"Modern Mug {number}" if first else "",
                    "Type": ("mug", "bag")[number % 2] if first else "",
                    "Colour": colour,
                    "SKU": f"SKU-{number}-{place}" if colour else "",
                    "Image Src": f"https://shop.example/{name}",
                    "Variant Image": name if colour else "",
                }
            )
    with (folder / "export.csv").open("w", newline="") as target:
        writer = csv.DictWriter(target, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "export.csv"


def write_lamps(folder):
    (folder / "photos").mkdir()
    rows = []
    for number in range(12):
        Image.new("RGB", (40, 40)).save(folder / "photos" / f"{number}.jpg")
        rows.append(
            {
                "photo": f"{number}.jpg",
                "Article No": f"00{number:02d}",
                "style_code": f"s{number // 3}",
                "title": f"Lamp number {number}",
                "kind": ["lamp", "vase"][number // 6],
                "colour": ["red", "blue", "red"][number % 3],
                "price": f"{number}.50",
                "currency": "EUR",
                "story": "A long story about a lamp that stands on a table and gives light to all who read beside it "
                f"for {number} hours.",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "shop.csv", index=False)
    return folder / "shop.csv"


def written(table, folder=None):
    path = (folder or table.parent) / "catalog.yaml"
    path.write_text(starter_yaml(table, folder))
    return path
