"""The products of the embedded catalog: shape, names, materials, how they are photographed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mlim.embedded import shapes_carried as carried
from mlim.embedded import shapes_home as home
from mlim.embedded import shapes_worn as worn
from mlim.embedded.parts import Parts

CLOTH = ("cotton", "wool", "satin")
KNITTED = ("wool", "cotton")
BAGS = ("canvas", "leather", "plastic")
CROCKERY = ("ceramic", "steel", "plastic")
COVERS = ("cotton", "satin", "leather", "wool")


class Product(NamedTuple):
    """A product type: how it is drawn, what shops call it, what it is made of, and what they say it is for.

    What stands is photographed upright on a floor; what lies is photographed from above and may be turned.
    """

    shape: Callable[[], Parts]
    words: tuple[str, ...]
    materials: tuple[str, ...]
    purposes: tuple[str, ...]
    stands: bool


WEAR = ("everyday wear", "for every day", "for work")
COLD = ("for cold days", "winter wear", "keeps warm")
TABLE = ("for the table", "for kitchen", "dishwasher safe")
ROOM = ("for living room", "for home", "home decor")
TRAVEL = ("for travel", "for school", "on the go")
PLAY = ("for outdoors", "for fun", "for beginners")

PRODUCTS: Mapping[str, Product] = {
    "t-shirt": Product(worn.t_shirt, ("t-shirt", "tee", "short sleeve top"), ("cotton", "satin"), WEAR, False),
    "jumper": Product(worn.jumper, ("jumper", "sweater", "pullover"), KNITTED, COLD, False),
    "dress": Product(worn.dress, ("dress", "sleeveless dress", "frock"), CLOTH, WEAR, False),
    "skirt": Product(worn.skirt, ("skirt", "flared skirt"), CLOTH, WEAR, False),
    "trousers": Product(worn.trousers, ("trousers", "pants"), CLOTH, WEAR, False),
    "apron": Product(
        worn.apron, ("apron", "kitchen apron"), ("cotton", "canvas", "leather"), ("for kitchen", "for cooks"), False
    ),
    "beanie": Product(worn.beanie, ("beanie", "bobble hat", "hat"), KNITTED, COLD, False),
    "scarf": Product(worn.scarf, ("scarf", "shawl"), CLOTH, COLD, False),
    "mitten": Product(worn.mitten, ("mitten", "glove"), ("wool", "leather"), COLD, False),
    "sock": Product(worn.sock, ("sock", "ankle sock"), KNITTED, COLD, False),
    "sneaker": Product(worn.sneaker, ("sneaker", "trainer", "shoe"), ("canvas", "leather"), WEAR, True),
    "boot": Product(
        worn.boot, ("boot", "high boot"), ("leather", "canvas", "plastic"), ("for rain", "for walks"), True
    ),
    "backpack": Product(carried.backpack, ("backpack", "rucksack"), BAGS, TRAVEL, True),
    "handbag": Product(carried.handbag, ("handbag", "purse", "bag"), BAGS, TRAVEL, True),
    "suitcase": Product(
        carried.suitcase, ("suitcase", "trolley", "luggage"), ("plastic", "canvas", "steel"), TRAVEL, True
    ),
    "umbrella": Product(
        carried.umbrella, ("umbrella", "brolly"), ("cotton", "plastic", "satin"), ("for rain", "on the go"), False
    ),
    "guitar": Product(carried.guitar, ("guitar", "acoustic guitar"), ("wood", "plastic"), PLAY, False),
    "surfboard": Product(carried.surfboard, ("surfboard", "board"), ("wood", "plastic"), PLAY, False),
    "kite": Product(carried.kite, ("kite", "flying kite"), ("cotton", "paper", "plastic"), PLAY, False),
    "tent": Product(carried.tent, ("tent", "camping tent"), ("canvas", "cotton", "plastic"), PLAY, True),
    "mug": Product(home.mug, ("mug", "cup", "coffee mug"), CROCKERY, TABLE, True),
    "teapot": Product(home.teapot, ("teapot", "tea pot"), CROCKERY, TABLE, True),
    "bowl": Product(home.bowl, ("bowl", "salad bowl"), (*CROCKERY, "wood"), TABLE, True),
    "plate": Product(home.plate, ("plate", "dinner plate", "dish"), CROCKERY, TABLE, False),
    "bottle": Product(home.bottle, ("bottle", "water bottle", "flask"), ("steel", "plastic"), TRAVEL, True),
    "vase": Product(home.vase, ("vase", "flower vase"), ("ceramic", "steel"), ROOM, True),
    "bucket": Product(home.bucket, ("bucket", "pail"), ("steel", "plastic"), ("for garden", "for home"), True),
    "lamp": Product(home.lamp, ("lamp", "table lamp"), ("paper", "cotton", "satin"), ROOM, True),
    "armchair": Product(home.armchair, ("armchair", "chair", "seat"), COVERS, ROOM, True),
    "sofa": Product(home.sofa, ("sofa", "couch", "settee"), COVERS, ROOM, True),
    "cushion": Product(home.cushion, ("cushion", "pillow"), COVERS, ROOM, False),
    "clock": Product(home.clock, ("clock", "alarm clock"), ("steel", "plastic"), ROOM, True),
    "book": Product(home.book, ("notebook", "journal"), ("paper", "leather"), ("for school", "for work"), False),
    "gift box": Product(home.gift_box, ("gift box", "storage box"), ("paper", "wood"), ROOM, True),
}
