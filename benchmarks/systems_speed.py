"""What does an answer cost with regions of a detector (two stages), beside systems that read the picture at once?

    python benchmarks/systems_speed.py [--size 96] [--width 128] [--depth 2] [--text 20] [--repetitions 40]
    python benchmarks/systems_speed.py --read 128 96 64 48     # E2E-VLP, pictures of 128 pixels read smaller

Random weights, pictures and questions: time does not depend on them. A query is a question about a picture of which
nothing is stored. The detector has the CNN, depth and width of E2E-VLP; LXMERT reads what its queries found. The
systems take turns, batch by batch; medians of the processor time of one thread, ratios within a turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from measure import heading, table
from systems import VOCABULARY, WORDS
from torch import Tensor

from mlim.config import override, parse
from mlim.data.asked import AskedBatch
from mlim.data.objects import ObjectNames
from mlim.data.tokenize import TextTokenizer
from mlim.models.boxes import to_corners
from mlim.models.crossed import Crossed, CrossedConfig
from mlim.models.e2e_vlp import E2eVlp, E2eVlpConfig
from mlim.models.item_classifier import ItemClassifier
from mlim.models.system import Shown, System
from mlim.models.systems import plan_system
from mlim.models.weights import Planned
from mlim.recipe import Recipe, load_recipe
from mlim.recipe.crossed import CrossedSystem
from mlim.recipe.e2e_vlp import E2eVlpSystem

BATCHES: Final = (1, 32)
ANSWERS, LABELS, WARM, SEED = 100, 12, 3, 0
BLOCKS: Final = "width: {width}, depth: {depth}"
SYSTEMS: Final[Mapping[str, str]] = {  # shapes by the names that the table has
    "E2E-VLP": f"{{{{kind: e2e-vlp, image: {{{{kind: cnn}}}}, decoder_depth: {{depth}}, {BLOCKS}}}}}",
    "Pixel-BERT": f"{{{{kind: joint, image: {{{{kind: cnn}}}}, {BLOCKS}}}}}",
    "ViLT": f"{{{{kind: joint, image: {{{{kind: patch, size: 16}}}}, norm: pre, {BLOCKS}}}}}",
}
LXMERT: Final = (
    "{{kind: crossed, image: {{kind: regions, source: 'detector:detector', depth: {depth}}}, width: {width}, "
    "text_depth: {depth}, cross_depth: {depth}}}"
)
TWO_STAGES: Final = "detector, then LXMERT"


class Spent(NamedTuple):
    """Milliseconds for each query: of finding regions, and of all."""

    regions: float
    whole: float


class Answering(NamedTuple):
    """A system that answers; `look` makes regions of pictures first, where it needs any."""

    network: ItemClassifier
    look: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def answer(self, batch: AskedBatch) -> Spent:
        """What a batch of queries takes."""
        started = seen = time.process_time()
        if self.look is not None:
            batch = batch._replace(pixels=self.look(batch.pixels))
            seen = time.process_time()
        self.network(batch, "both")
        scale = 1000 / len(batch.ids)
        return Spent(scale * (seen - started), scale * (time.process_time() - started))


class Detector(NamedTuple):
    """The first stage."""

    system: E2eVlp

    def find(self, pixels: Tensor) -> Tensor:
        """Regions of pictures, packed: what each query has become, its box, and that it is there."""
        nothing = torch.zeros(len(pixels), 1, dtype=torch.long)
        asked = self.system.ask(self.system.look(Shown(nothing, nothing.bool(), pixels)))[-1:]
        boxes = to_corners(self.system.judge(asked).boxes[-1]).clamp(0, 1)
        return torch.cat([asked[0], boxes, torch.ones_like(boxes[..., :1])], dim=-1)


def answering(arguments: argparse.Namespace, tokenizer: TextTokenizer) -> dict[str, Answering]:
    """The systems by name, with random weights."""
    names = ObjectNames(labels=tuple(WORDS[:LABELS]))
    shapes = [*SYSTEMS.values(), LXMERT]
    told = ", ".join(f"s{number}: {shape.format(**vars(arguments))}" for number, shape in enumerate(shapes))
    settings = (
        f"systems={{{told}}}",
        "pretrainings.detector={system: s0, tasks: [{task: detect, text: false}]}",  # that s3 reads the regions of
        f"image={{size: {arguments.size}, grid: {arguments.size // 16}}}",
    )
    recipe = parse(Recipe, override(load_recipe("small").model_dump(mode="json"), settings), "the benchmark")
    systems = list(recipe.systems.values())
    found = {
        name: Answering(_classifier(plan_system(system, recipe.network, tokenizer, SEED)))
        for name, system in zip(SYSTEMS, systems, strict=False)
    }
    first, last = systems[0], systems[-1]
    if not isinstance(first, E2eVlpSystem) or not isinstance(last, CrossedSystem):
        raise TypeError("the shapes stand in another order")
    inputs = {"sections": recipe.network, "tokenizer": tokenizer, "objects": names}
    detector = E2eVlp.planned(E2eVlpConfig.reading(**inputs, shape=first), SEED).build().eval()
    lxmert = Crossed.planned(CrossedConfig.reading(**inputs, shape=last, feature_size=first.width), SEED)
    return {TWO_STAGES: Answering(_classifier(lxmert), Detector(detector).find), **found}


def _classifier(system: Planned[System]) -> ItemClassifier:
    return ItemClassifier.planned(system, 1, WORDS[:ANSWERS], SEED).build().eval()


def batch_of(items: int, arguments: argparse.Namespace, words: int) -> AskedBatch:
    """Random questions about random pictures."""
    ids = torch.randint(5, words, (items, arguments.text))
    pixels = torch.rand(items, 3, arguments.size, arguments.size)
    names = [str(number) for number in range(items)]
    return AskedBatch(ids, torch.ones_like(ids, dtype=torch.bool), pixels, torch.zeros(items, ANSWERS), names)


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    tokenizer = TextTokenizer.learn(WORDS, VOCABULARY)
    systems = answering(arguments, tokenizer)
    print(heading(("torch",)))
    rows = []
    for items in BATCHES:
        batch = batch_of(items, arguments, tokenizer.vocabulary_size)
        spent: dict[str, list[Spent]] = {name: [] for name in systems}
        for _ in range(WARM + arguments.repetitions):
            for name, system in systems.items():
                spent[name].append(system.answer(batch))
        rows += [row_of(items, name, spent[name][WARM:], spent[TWO_STAGES][WARM:]) for name in systems]
    print(table(["queries at a time", "system", "ms per query", "share of regions", "two stages take"], rows))


def compare_sizes(arguments: argparse.Namespace) -> None:
    """E2E-VLP with pictures made smaller before they are read (its Table 6)."""
    torch.set_num_threads(1)
    tokenizer, size = TextTokenizer.learn(WORDS, VOCABULARY), max(arguments.read)
    told = SYSTEMS["E2E-VLP"].format(**vars(arguments)).replace("{kind: cnn}", "{kind: cnn, read_size: %s}")
    systems = ", ".join(f"s{read}: {told % read}" for read in arguments.read)
    settings = (f"systems={{{systems}}}", f"image={{size: {size}, grid: {size // 16}}}")
    recipe = parse(Recipe, override(load_recipe("small").model_dump(mode="json"), settings), "the benchmark")
    networks = [
        Answering(_classifier(plan_system(system, recipe.network, tokenizer, SEED)))
        for system in recipe.systems.values()
    ]
    print(heading(("torch",)))
    rows = []
    for items in BATCHES:
        batch = batch_of(items, argparse.Namespace(**{**vars(arguments), "size": size}), tokenizer.vocabulary_size)
        turns = [[each.answer(batch).whole for each in networks] for _ in range(WARM + arguments.repetitions)][WARM:]
        for number, read in enumerate(arguments.read):
            faster = statistics.median(turn[0] / turn[number] for turn in turns)
            whole = statistics.median(turn[number] for turn in turns)
            rows.append([str(items), f"{read} x {read}", f"{whole:.1f}", f"{faster:.1f}"])
    print(table(["queries at a time", "pixels", "ms per query", "times as fast"], rows))


def row_of(items: int, name: str, own: list[Spent], two_stages: list[Spent]) -> list[str]:
    """Its medians, and how many times as long two stages take."""
    whole = statistics.median(each.whole for each in own)
    if name == TWO_STAGES:
        share = statistics.median(each.regions / each.whole for each in own)
        return [str(items), name, f"{whole:.1f}", f"{share:.0%}", ""]
    ratio = statistics.median(two.whole / one.whole for one, two in zip(own, two_stages, strict=True))
    return [str(items), name, f"{whole:.1f}", "", f"{ratio:.1f} times as long"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="side of a picture, a multiple of 16 pixels")
    parser.add_argument("--width", type=int, default=128, help="of the blocks")
    parser.add_argument("--depth", type=int, default=2, help="blocks of each encoder, and of the detector's decoder")
    parser.add_argument("--text", type=int, default=20, help="tokens of a question")
    parser.add_argument("--repetitions", type=int, default=40, help="batches that are measured")
    parser.add_argument("--read", type=int, nargs="+", help="sizes of E2E-VLP to compare, the first with the others")
    told = parser.parse_args()
    compare_sizes(told) if told.read else main(told)
