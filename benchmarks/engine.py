"""How fast is a pre-training step, beside what it costs at least and beside other people's steps?

    python benchmarks/engine.py floor --recipe paper
    python benchmarks/engine.py rungs --recipe paper --device cuda
    python benchmarks/engine.py parts --recipe small
    python benchmarks/engine.py changes
    python benchmarks/engine.py compare [--recipe paper]

`floor` counts operations and bytes. `rungs` climbs from the transformer alone over the whole model and the loader to the
trainer with everything. `parts` times the pieces of a step. `changes` undoes one change at a time. `compare` sets our
step beside ViLT's and a bare BERT loop's. Whatever is compared takes turns in one process; medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from engine_data import Shards
from engine_works import (
    MODES,
    Setting,
    Work,
    all_positions,
    bert,
    compiled,
    ours,
    pad_everything,
    pieces,
    planar_decoder,
    transformer_alone,
    unchanged,
    vilt,
)
from measure import heading, median_ratio, table

from mlim.recipe import Recipe, load_recipe
from mlim.throughput import PARTS, TRAINING, Cost, Sample, device_name, mfu, part_costs, peak_of, training_operations

PACKAGES = ("mlim", "torch", "transformers")
HALF_BYTES = 2
STEP_BYTES = 40  # per weight and step, fp32: read forward and backward, gradient written, Adam reads four, writes three
DEVICES = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "NVIDIA L4")
COMPARED = ("model.hidden_size=384", "model.layers=6", "model.heads=6", "model.intermediate_size=1536")
OWN_PATCH, EQUAL_PATCH = 32, 48  # ViLT's own; and the one that gives as many patches as we have cells


def seconds_in_turns(works: Sequence[Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per step of each work, round by round; a round is one step in each of MAM's modes."""
    found: dict[str, list[float]] = {work.name: [] for work in works}
    for number in range(-1, rounds):
        for work in works:
            started = time.perf_counter()
            for place in range(MODES):
                work.step(place)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:  # the first round warms up
                found[work.name].append((time.perf_counter() - started) / MODES)
    return found


def sample_of(setting: Setting) -> Sample:
    """The average sample: text tokens, and those that MAM's three modes mask in it."""
    mam, text = setting.recipe.pretrain.masking.mam, (setting.shortest + setting.longest) / 2
    rate = (mam.heavy_image.text + mam.heavy_text.text + mam.light.text) / MODES
    return Sample(text, (text - 2) * rate, setting.config.cells)


# ---- floor ----


def floor(arguments: argparse.Namespace) -> None:
    setting = setting_of(arguments)
    costs, sample = part_costs(setting.config, sample_of(setting)), sample_of(setting)
    step = setting.batch * setting.recipe.pretrain.accumulate
    rows = []
    for part in PARTS:
        cost = costs[part]
        figures = (cost.operations / 1e9, TRAINING * cost.operations / 1e9, moved(cost, step) / 1e6)
        rows.append([part, f"{cost.weights / 1e6:.2f}", *(f"{figure:.2f}" for figure in figures)])
    total = training_operations(setting.config, sample)
    everything = sum(moved(cost, step) for cost in costs.values())
    rows.append(["all", f"{sum(cost.weights for cost in costs.values()) / 1e6:.2f}"])
    rows[-1] += [f"{figure:.2f}" for figure in (total / TRAINING / 1e9, total / 1e9, everything / 1e6)]
    print(heading(PACKAGES))
    print(
        f"Recipe `{setting.recipe.name}`: {sample.text:.0f} text tokens, {sample.masked:.1f} of them masked on average, "
        f"{sample.cells} cells; {step} samples per optimiser step. Bytes: bf16 activations, fp32 weights and Adam.\n"
    )
    print(table(["part", "M weights", "GFLOP forward", "GFLOP with backward", "MB moved"], rows))
    print(
        "\nWhat a device could do at best (the slower of operations and bytes in each part), and at half of its peak:\n"
    )
    print(
        table(
            ["device", "samples/s at best", "samples/s at 50 % MFU"], [best_on(name, costs, step) for name in DEVICES]
        )
    )


def moved(cost: Cost, step: int) -> float:
    """Bytes per sample of one part, forward and backward."""
    return TRAINING * HALF_BYTES * cost.elements + STEP_BYTES * cost.weights / step


def best_on(name: str, costs: dict[str, Cost], step: int) -> list[str]:
    peak = peak_of(name)
    assert peak is not None
    operations = [TRAINING * cost.operations / peak.bf16 for cost in costs.values()]
    slowest = [
        max(spent, moved(cost, step) / peak.bandwidth) for spent, cost in zip(operations, costs.values(), strict=True)
    ]
    return [name, f"{1 / sum(slowest):,.0f}", f"{0.5 / sum(operations):,.0f}"]


# ---- rungs ----


def rungs(arguments: argparse.Namespace) -> None:
    setting = setting_of(arguments)
    device, sample = setting.device, sample_of(setting)
    whole = training_operations(setting.config, sample)
    alone = TRAINING * part_costs(setting.config, sample)["transformer"].operations
    rows, change = [], compiled if setting.recipe.compute.compile else unchanged
    for work, operations in (
        (transformer_alone("transformer only", setting, change), alone),
        (ours("full model, synthetic data", setting, change), whole),
    ):
        spent = seconds_in_turns([work], arguments.rounds, device)[work.name]
        rows.append(rung(work.name, [setting.batch / each for each in spent], operations, setting))
        del work
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        shards = Shards(setting, Path(scratch))
        rows.append(rung("loader only", [shards.read(arguments.steps) for _ in range(3)], 0.0, setting))
        rows.append(rung("end to end", shards.train(arguments.steps), whole, setting))
    print(heading(PACKAGES))
    where = device_name(device)
    print(
        f"Recipe `{setting.recipe.name}` on {where}, batch {setting.batch}, {setting.longest} text tokens and {sample.cells} cells.\n"
    )
    print(table(["rung", "samples/s", "MFU (counted operations)"], rows))


def rung(name: str, rates: Sequence[float], operations: float, setting: Setting) -> list[str]:
    rate = statistics.median(rates)
    share = mfu(operations, rate, device_name(setting.device), "bf16")
    told = "" if not operations else "not available" if share is None else f"{100 * share:.1f} %"
    return [name, f"{rate:,.1f}", told]


# ---- parts, changes, compare ----


def parts(arguments: argparse.Namespace) -> None:
    setting = setting_of(arguments)
    works = [ours("whole step", setting), *pieces(setting)]
    show(arguments, setting, works, "whole step")


def changes(arguments: argparse.Namespace) -> None:
    setting = setting_of(arguments)

    def reference(model: object) -> None:
        pad_everything(model)
        planar_decoder(model)

    works = [
        ours("as it is", setting),
        ours("padding kept, query, key and value apart (Hugging Face's blocks)", setting, pad_everything),
        ours("MLM head on all text positions", setting, losses=all_positions),
        ours("decoder channel by channel", setting, planar_decoder),
        ours("all three undone", setting, reference, all_positions),
    ]
    show(
        arguments, setting, [*works, *([ours("compiled", setting, compiled)] if arguments.compile else [])], "as it is"
    )


def compare(arguments: argparse.Namespace) -> None:
    setting = setting_of(arguments)
    first = ours("mlim", setting)
    if arguments.recipe != "compared":
        show(arguments, setting, [first, bert("bare loop over BertForMaskedLM", setting)], "mlim")
        return
    reference = ours("mlim, padded, logits at all positions", setting, pad_everything, all_positions)
    own = vilt("ViltForMaskedLM, its own patches", setting, OWN_PATCH)
    equal = vilt("ViltForMaskedLM, as many patches as cells", setting, EQUAL_PATCH)
    show(arguments, setting, [first, reference, own, equal], "mlim")


def show(arguments: argparse.Namespace, setting: Setting, works: Sequence[Work], base: str) -> None:
    """Measure the works in turns and print their table beside the work named `base`."""
    found = seconds_in_turns(works, arguments.rounds, setting.device)
    rows = []
    for work in works:
        spent = statistics.median(found[work.name])
        ratio = median_ratio(found[work.name], found[base])
        rows.append(
            [work.name, f"{work.tokens:.0f}", f"{1000 * spent:,.1f}", f"{work.samples / spent:,.2f}", f"{ratio:.2f}"]
        )
    config = setting.config
    print(heading(PACKAGES))
    print(
        f"Width {config.hidden_size}, {config.layers} blocks, pictures of {config.image_size} x {config.image_size}, "
        f"batch {setting.batch}, texts of {setting.shortest} to {setting.longest} tokens, dropout {config.dropout}, "
        f"on {device_name(setting.device)}; {arguments.rounds} rounds of {MODES} steps in turn, medians.\n"
    )
    print(table(["", "tokens per sample", "ms per step", "samples/s", f"time, {base} = 1"], rows))


def setting_of(arguments: argparse.Namespace) -> Setting:
    recipe = recipe_of(arguments)
    longest = recipe.text.max_tokens
    shortest, longest = arguments.text or (longest, longest)
    return Setting(
        recipe, torch.device(arguments.device), arguments.batch or recipe.pretrain.batch_size, shortest, longest
    )


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    if arguments.recipe != "compared":
        return load_recipe(arguments.recipe, arguments.set)
    return load_recipe("paper", ["model.start=random", *COMPARED, *arguments.set])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    ways = {"floor": (floor, "paper"), "rungs": (rungs, "paper"), "parts": (parts, "small")}
    ways |= {"changes": (changes, "compared"), "compare": (compare, "compared")}
    for name, (run, recipe) in ways.items():
        one = commands.add_parser(name)
        one.add_argument("--recipe", default=recipe, help="demo, small, paper or a file; compared: width 384, 6 blocks")
        one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
        one.add_argument("--device", default="cpu")
        one.add_argument("--batch", type=int, help="samples of a step; default: the recipe's")
        one.add_argument("--text", type=int, nargs=2, metavar=("SHORTEST", "LONGEST"), help="tokens of a text")
        one.add_argument("--rounds", type=int, default=5)
        one.add_argument("--steps", type=int, default=40, help="of loader and trainer (rungs)")
        one.add_argument("--compile", action="store_true", help="compiled parts too (changes)")
        one.add_argument("--scratch", type=Path, help="where files are made (rungs)")
        one.set_defaults(run=run)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
