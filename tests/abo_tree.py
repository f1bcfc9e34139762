"""Trees in the layout of Amazon Berkeley Objects, drawn from a seed: for tests and benchmarks, not a data set.

    python tests/abo_tree.py OUT --listings 150000 --pictures 20000

Words and sizes are invented; shapes and traps are those of the real records: product_type as a list and bare, node in
several shapes, model_number without a language, missing fields, one item under two domains, listings in other
languages only, photos shared by many listings, ids without a file or unknown to images.csv.gz, PNG files.
"""

import argparse
import gzip
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

FILES = "0123456789abcdef"
DOMAINS = {
    "amazon.com": ("US", "en_US"),
    "amazon.co.uk": ("GB", "en_GB"),
    "amazon.in": ("IN", "en_IN"),
    "amazon.de": ("DE", "de_DE"),
    "amazon.co.jp": ("JP", "ja_JP"),
}
TYPES = ("CELLULAR_PHONE_CASE", "SHOES", "CHAIR", "LAMP", "GROCERY", "RUG", "SOFA", "HANDBAG")
TYPE_SHARES = (0.44, 0.12, 0.09, 0.08, 0.08, 0.07, 0.06, 0.06)
BRANDS = ("Solimo", "Rivet", "Stone & Beam", "find.", "AmazonBasics", "The Fix", "Fresh", "Pinzon")
COLORS = {  # name in English and German, standardised in both, red-green-blue
    "Crimson": ("Karmesin", "Red", "Rot", (190, 30, 45)),
    "Navy": ("Marineblau", "Blue", "Blau", (30, 40, 110)),
    "Moss": ("Moos", "Green", "Grün", (90, 120, 50)),
    "Charcoal": ("Anthrazit", "Grey", "Grau", (70, 70, 75)),
    "Sand": ("Sand", "Beige", "Beige", (215, 195, 150)),
}
MATERIALS = ("Polycarbonate", "Leather", "Cotton", "Steel", "Oak")
PATTERNS = ("Solid", "Striped", "Floral")
STYLES = ("Modern", "Rustic", "Casual", "Classic")
WORDS = (
    *("soft", "strong", "light", "easy", "clean", "durable", "water", "resistant", "slim", "fit", "home", "kitchen"),
    *("travel", "gift", "daily", "design", "made", "for", "use", "with", "care", "the", "a", "and", "of", "in", "wash"),
    *("cold", "machine", "hand", "pack", "set", "piece", "premium", "quality", "natural", "classic"),
)
SYLLABLES = ("ka", "lo", "mi", "ren", "sta", "vo", "dur", "el", "tan", "ix")
NODES = {name: f"/Categories/{name.title().replace('_', ' ')}/All" for name in TYPES}
ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ITEMS_PER_FAMILY = 5
BOILERPLATE_SHARE = 0.06  # of the listings: they show one of the boilerplate photos as well
BOILERPLATE_MAIN = 0.25  # of those: as the main photo
PNG_EVERY, NO_FILE_EVERY = 97, 211
SMALLEST_SIDE, LARGEST_SIDE = 64, 256
PICTURES_PER_PART = 1_000
SCALE = 4  # originals are said to be so many times larger than the small pictures


@dataclass(frozen=True)
class AboTree:
    """What was drawn: `planted` counts the traps, `boilerplate` names the photos that stand on many listings."""

    folder: Path
    listings: int
    boilerplate: tuple[str, ...]
    planted: Counter[str] = field(default_factory=Counter)


def write_abo_tree(
    folder: Path, listings: int, pictures: int, seed: int = 0, boilerplate: int = 3, workers: int = 1
) -> AboTree:
    """Draw `listings` listings over `pictures` photos (the first `boilerplate` of them on many listings)."""
    names = _write_pictures(folder, pictures, seed, workers)
    tree = AboTree(folder, listings, tuple(names[:boilerplate]))
    target = folder / "listings" / "metadata"
    target.mkdir(parents=True)
    drawing = _Listings(np.random.default_rng([seed, 1]), names, boilerplate, tree.planted)
    rows = drawing.draw(listings)
    share, rest = divmod(listings, len(FILES))
    for number, letter in enumerate(FILES):
        count = share + (number < rest)
        _write_gzip(target / f"listings_{letter}.json.gz", (next(rows) for _ in range(count)))
    return tree


def _write_gzip(path: Path, listings: Iterator[dict[str, Any]]) -> None:
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        io.BufferedWriter(packed, 1 << 20) as target,
    ):
        for listing in listings:
            target.write(json.dumps(listing, ensure_ascii=False).encode() + b"\n")


# ---- pictures


def _write_pictures(folder: Path, count: int, seed: int, workers: int) -> list[str]:
    """Files, images.csv.gz; the ids in order. A few files are not written although the table lists them."""
    parts = [
        (folder, range(start, min(start + PICTURES_PER_PART, count)), seed)
        for start in range(0, count, PICTURES_PER_PART)
    ]
    for part in range(256):
        (folder / "images" / "small" / f"{part:02x}").mkdir(parents=True)
    if workers == 1:
        rows = [row for part in parts for row in _draw_part(part)]
    else:
        with ProcessPoolExecutor(workers) as pool:
            rows = [row for made in pool.map(_draw_part, parts) for row in made]
    (folder / "images" / "metadata").mkdir()
    table = folder / "images" / "metadata" / "images.csv.gz"
    with table.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(b"image_id,height,width,path\n")
        packed.writelines(f"{name},{height},{width},{path}\n".encode() for name, height, width, path in rows)
    return [row[0] for row in rows]


def _draw_part(part: tuple[Path, range, int]) -> list[tuple[str, int, int, str]]:
    folder, numbers, seed = part
    rng = np.random.default_rng([seed, 2, numbers.start])
    rows = []
    for number in numbers:
        suffix = "png" if number % PNG_EVERY == PNG_EVERY - 1 else "jpg"
        digits = f"{(number * 2654435761 + seed) % 2**32:08x}"
        path = f"{digits[:2]}/{digits}.{suffix}"
        picture = _draw(rng)
        if number % NO_FILE_EVERY != NO_FILE_EVERY - 1:
            picture.save(folder / "images" / "small" / path)
        name = f"{ID_LETTERS[number % 36]}1{digits.upper()}L"
        rows.append((name, picture.height * SCALE, picture.width * SCALE, path))
    return rows


def _draw(rng: np.random.Generator) -> Image.Image:
    """A shape in one of the colours on white."""
    width, height = (int(side) for side in rng.integers(SMALLEST_SIDE, LARGEST_SIDE + 1, 2))
    color = list(COLORS.values())[rng.integers(len(COLORS))][3]
    picture = Image.new("RGB", (width, height), "white")
    left, top = (int(number) for number in rng.integers(1, SMALLEST_SIDE // 2, 2))
    shape = (left, top, width - left // 2, height - top // 2)
    drawing = ImageDraw.Draw(picture)
    (drawing.ellipse if rng.random() < 0.5 else drawing.rectangle)(shape, fill=color)
    drawing.line((0, int(rng.integers(height)), width, int(rng.integers(height))), fill=(40, 40, 40), width=2)
    return picture


# ---- listings


@dataclass
class _Listings:
    rng: np.random.Generator
    pictures: list[str]
    boilerplate: int
    planted: Counter[str]

    def draw(self, count: int) -> Iterator[dict[str, Any]]:
        """Families of variations in one after the other, so that a prefix of the tree is the tree of fewer listings."""
        families = itertools.chain.from_iterable(map(self._family, itertools.count()))
        yield from itertools.islice(families, count)

    def _family(self, number: int) -> Iterator[dict[str, Any]]:
        rng = self.rng
        kind = str(rng.choice(TYPES, p=TYPE_SHARES))
        brand = BRANDS[rng.integers(len(BRANDS))]
        model = f"{self._name()} {number}"
        colors = rng.permutation(len(COLORS))
        for member in range(ITEMS_PER_FAMILY):
            color = list(COLORS)[colors[member % 3]]
            shown = [self.pictures[i] for i in rng.integers(self.boilerplate, len(self.pictures), 1 + rng.integers(4))]
            listing = self._listing(f"B{number:07d}{member:02d}", kind, brand, model, color, shown)
            yield listing
            if rng.random() < 0.1:
                yield self._elsewhere(listing)

    def _listing(self, item: str, kind: str, brand: str, model: str, color: str, shown: list[str]) -> dict[str, Any]:
        rng = self.rng
        domain = list(DOMAINS)[rng.choice(len(DOMAINS), p=(0.5, 0.12, 0.18, 0.12, 0.08))]
        country, tag = DOMAINS[domain]
        self.planted["other language only"] += not tag.startswith("en")
        listing: dict[str, Any] = {
            "item_id": item,
            "domain_name": domain,
            "country": country,
            "marketplace": "Amazon",
            "brand": self._said(tag, brand),
            "item_name": self._said(tag, f"{brand} {model} {kind.replace('_', ' ').title()}, {color}"),
            "bullet_point": [one for _ in range(5) for one in self._said(tag, self._sentence(14))],
            "item_keywords": [one for _ in range(8) for one in self._said(tag, self._sentence(2))],
            "product_description": self._said(tag, f"<p>{self._sentence(30)}<br>&amp; {self._sentence(8)}</p>"),
            "color": self._color(tag, color),
            "material": self._said(tag, MATERIALS[rng.integers(len(MATERIALS))]),
            "pattern": self._said(tag, PATTERNS[rng.integers(len(PATTERNS))]),
            "style": self._said(tag, STYLES[rng.integers(len(STYLES))]),
            "model_name": self._said(tag, model),
            "model_number": [{"value": f"M-{rng.integers(10**6):06d}"}],
            "model_year": [{"value": int(2010 + rng.integers(12))}],
            "product_type": self._product_type(kind),
            "node": self._node(kind),
            "item_dimensions": {side: self._measure("inches") for side in ("height", "length", "width")},
            "item_weight": [self._measure("pounds")],
        }
        return {**self._without_some(listing), **self._shown(shown)}

    def _elsewhere(self, listing: dict[str, Any]) -> dict[str, Any]:
        """The same item under another domain: only together do item_id and domain_name name a listing."""
        others = [domain for domain in DOMAINS if domain != listing["domain_name"]]
        domain = others[self.rng.integers(len(others))]
        self.planted["same item_id under two domains"] += 1
        return {**listing, "domain_name": domain, "country": DOMAINS[domain][0]}

    def _said(self, tag: str, text: str) -> list[dict[str, Any]]:
        """The text in the shop's language, sometimes with a second one before it."""
        own = {"language_tag": tag, "value": text}
        return [{"language_tag": "zh_CN", "value": "商品"}, own] if self.rng.random() < 0.05 else [own]

    def _color(self, tag: str, color: str) -> list[dict[str, Any]]:
        german, standard, german_standard, _ = COLORS[color]
        if tag == "de_DE":
            return [{"language_tag": tag, "value": german, "standardized_values": [german_standard]}]
        return [{"language_tag": tag, "value": color, "standardized_values": [standard]}]

    def _product_type(self, kind: str) -> Any:
        bare = bool(self.rng.random() < 0.1)
        self.planted["product_type as a string"] += bare
        return kind if bare else [{"value": kind}]

    def _node(self, kind: str) -> Any:
        node = {"node_id": int(self.rng.integers(10**9)), "node_name": NODES[kind]}
        shape = self.rng.random()
        if shape < 0.8:
            return [{"node_id": 1, "node_name": "/Self Service"}, node]
        self.planted["node in another shape"] += 1
        return node if shape < 0.9 else [{"node_id": node["node_id"]}]

    def _measure(self, unit: str) -> dict[str, Any]:
        value = round(float(self.rng.uniform(0.1, 40)), 1)
        return {"normalized_value": {"unit": unit, "value": value}, "unit": unit, "value": value}

    def _without_some(self, listing: dict[str, Any]) -> dict[str, Any]:
        """Every field but those of the key may be missing."""
        fields = list(listing)[2:]
        gone = {name for name, chance in zip(fields, self.rng.random(len(fields)), strict=True) if chance < 0.08}
        self.planted["missing fields"] += len(gone)
        return {name: value for name, value in listing.items() if name not in gone}

    def _shown(self, shown: list[str]) -> dict[str, Any]:
        rng, names = self.rng, list(dict.fromkeys(shown))
        chance = rng.random()
        if chance < 0.005:
            self.planted["no picture"] += 1
            return {}
        if chance < 0.015:
            self.planted["main picture unknown to images.csv.gz"] += 1
            names = [f"9ZUNKNOWN{rng.integers(10**6):06d}", *names[1:]]
        elif self.boilerplate and chance < 0.015 + BOILERPLATE_SHARE:
            names = self._with_boilerplate(names)
        return {"main_image_id": names[0], **({"other_image_id": names[1:]} if names[1:] else {})}

    def _with_boilerplate(self, names: list[str]) -> list[str]:
        plate = self.pictures[self.rng.integers(self.boilerplate)]
        self.planted["boilerplate picture"] += 1
        if self.rng.random() >= BOILERPLATE_MAIN:
            return [*names, plate]
        alone = bool(self.rng.random() < 0.5)
        self.planted["boilerplate as the only picture" if alone else "boilerplate as the main picture"] += 1
        return [plate] if alone else [plate, *names]

    def _sentence(self, words: int) -> str:
        return " ".join(WORDS[i] for i in self.rng.integers(len(WORDS), size=words))

    def _name(self) -> str:
        return "".join(SYLLABLES[i] for i in self.rng.integers(len(SYLLABLES), size=3)).title()


def main() -> None:
    """Draw a tree and say what was planted in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--listings", type=int, default=150_000)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boilerplate", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    tree = write_abo_tree(given.out, given.listings, given.pictures, given.seed, given.boilerplate, given.workers)
    print(json.dumps({"listings": tree.listings, "boilerplate": tree.boilerplate, "planted": dict(tree.planted)}))


if __name__ == "__main__":
    main()
