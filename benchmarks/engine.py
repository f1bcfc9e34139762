"""How fast is a pre-training step, beside what it costs at least and beside other people's steps?

    python benchmarks/engine.py floor | rungs | parts | changes | compare [--recipe NAME] [--device cuda] ...

`floor` counts operations and bytes. `rungs` climbs from the transformer alone over the whole model and the loader to
the trainer with everything. `parts` times the pieces of a step. `changes` undoes one change at a time. `compare` sets
our step beside ViLT's or, with a recipe, beside a bare BERT loop. What is compared takes turns in one process; medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import engine_works as works
import torch
from engine_data import Catalog
from engine_works import MODES, Setting, Work, ours
from measure import heading, median_ratio, table

from mlim import throughput
from mlim.models import costs
from mlim.models.mlim import Mlim
from mlim.recipe import Recipe, load_recipe

PACKAGES = ("mlim", "torch", "transformers")
HALF_BYTES = 2
STEP_BYTES = 40  # per weight and step, fp32: read forward and backward, gradient written, Adam reads four, writes three
DEVICES = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "NVIDIA L4")
JOINING = 0.75  # of the blocks, below which no hidden token is read
COMPARED = ("model.hidden_size=384", "model.layers=6", "model.heads=6", "model.intermediate_size=1536")
OWN_PATCH, EQUAL_PATCH = 32, 48  # ViLT's own; and the one that gives as many patches as we have patches


def sample_of(setting: Setting) -> costs.Sample:
    """The average sample: text tokens, and those of them that MAM's three modes mask."""
    mam, text = setting.recipe.pretrain.masking.mam, (setting.shortest + setting.longest) / 2
    rate = (mam.heavy_image.text + mam.heavy_text.text + mam.light.text) / MODES
    return costs.Sample(text, (text - 2) * rate, setting.config.patches)


def floor(setting: Setting, arguments: argparse.Namespace) -> None:
    sample, step = sample_of(setting), setting.batch * setting.recipe.pretrain.accumulate
    counted = costs.part_costs(setting.config, sample)
    moved = {
        part: costs.TRAINING * HALF_BYTES * cost.elements + STEP_BYTES * cost.weights / step
        for part, cost in counted.items()
    }
    rows = [
        [cost.weights / 1e6, cost.operations / 1e9, costs.TRAINING * cost.operations / 1e9, moved[part] / 1e6]
        for part, cost in counted.items()
    ]
    rows.append([sum(column) for column in zip(*rows, strict=True)])
    print(f"{sample.text:.0f} text tokens, {sample.masked:.1f} of them masked on average, {sample.patches} patches;")
    print(f"{step} samples per optimiser step. Bytes: activations in bf16, weights, gradients and Adam in fp32.\n")
    told = [[name, *(f"{value:,.2f}" for value in row)] for name, row in zip([*counted, "all"], rows, strict=True)]
    print(table(["part", "M weights", "GFLOP forward", "GFLOP in training", "MB moved in training"], told))
    print("\nAt best: the slower of operations and bytes in every part.\n")
    told = []
    for name in DEVICES:
        peak = throughput.peak_of(name)
        spent = {part: costs.TRAINING * cost.operations / peak.bf16 for part, cost in counted.items()}
        best = 1 / sum(max(seconds, moved[part] / peak.bandwidth) for part, seconds in spent.items())
        told.append([name, f"{best:,.0f}", f"{0.5 / sum(spent.values()):,.0f}"])
    print(table(["device", "samples/s at best", "samples/s at 50 % MFU"], told))


def rungs(setting: Setting, arguments: argparse.Namespace) -> None:
    alone = costs.TRAINING * costs.part_costs(setting.config, sample_of(setting))["transformer"].operations
    whole = costs.training_operations(setting.config, sample_of(setting))
    change = Mlim.compile_parts if setting.recipe.compute.compile else works.unchanged
    rows = []
    for name, operations in (("transformer only", alone), ("full model, synthetic data", whole)):
        work = ours(name, setting, change) if operations == whole else works.transformer(name, setting, change)
        spent = in_turns([work], arguments.rounds, setting.device)[name]
        rows.append(rung(name, [setting.batch / each for each in spent], operations, setting))
        del work  # its memory is the next one's
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        catalog = Catalog(setting, Path(scratch) / "catalog")
        rows.append(rung("loader only", [catalog.read(arguments.steps) for _ in range(MODES)], 0.0, setting))
        rows.append(rung("end to end", catalog.train(arguments.steps), whole, setting))
    print(table(["rung", "samples/s", "MFU, counted operations"], rows))


def rung(name: str, rates: Sequence[float], operations: float, setting: Setting) -> list[str]:
    rate = statistics.median(rates)
    share = throughput.mfu(operations, rate, throughput.device_name(setting.device), "bf16")
    told = "" if not operations else "not available" if share is None else f"{100 * share:.1f} %"
    return [name, f"{rate:,.1f}", told]


def parts(setting: Setting, arguments: argparse.Namespace) -> None:
    show([ours("whole step", setting), *works.pieces(setting)], setting, arguments)


def changes(setting: Setting, arguments: argparse.Namespace) -> None:
    steps = [
        ours("as it is", setting),
        ours("padding kept", setting, works.keep_padding),
        ours("torch's random numbers in dropout", setting, works.usual_dropout),
        ours("pictures channel by channel in the embedder", setting, works.planar_embedder),
        ours("pictures channel by channel in the decoder", setting, works.planar_decoder),
        ours("logits at all text positions", setting, losses=works.all_positions),
        ours("Hugging Face's blocks, padded", setting, works.pad_everything),
        ours(
            "Hugging Face's blocks, padded, logits at all positions", setting, works.pad_everything, works.all_positions
        ),
    ]
    show([*steps, *([ours("compiled", setting, Mlim.compile_parts)] if arguments.compile else [])], setting, arguments)


def compare(setting: Setting, arguments: argparse.Namespace) -> None:
    steps = [ours("mlim", setting)]
    steps.append(ours("mlim, hidden tokens in the last quarter of the blocks", setting.joining_at(JOINING)))
    if arguments.recipe != "compared":
        show([*steps, works.bert("bare loop over BertForMaskedLM", setting)], setting, arguments)
        return
    steps.append(ours("mlim, padded, logits at all positions", setting, works.pad_everything, works.all_positions))
    steps.append(ours("mlim, a quarter of the pictures reconstructed", setting, pretraining=works.QUARTER))
    steps.append(ours("mlim, MLM alone: no decoder", setting, losses=works.mlm_alone))
    steps.append(works.vilt("ViltForMaskedLM, its own patches", setting, OWN_PATCH))
    steps.append(works.vilt("ViltForMaskedLM, as many patches as ours", setting, EQUAL_PATCH))
    show(steps, setting, arguments)


def show(steps: Sequence[Work], setting: Setting, arguments: argparse.Namespace) -> None:
    """Measure the works in turns and print their table; the first one is what the others are set beside."""
    found, rows = in_turns(steps, arguments.rounds, setting.device), []
    for work in steps:
        spent, ratio = found[work.name], median_ratio(found[work.name], found[steps[0].name])
        rate = work.samples / statistics.median(spent)
        rows.append(
            [work.name, f"{work.tokens:.0f}", f"{1e3 * statistics.median(spent):,.0f}", f"{rate:,.2f}", f"{ratio:.2f}"]
        )
    print(f"\n{arguments.rounds} rounds of {MODES} steps in turn, medians.\n")
    print(table(["", "tokens per sample", "ms per step", "samples/s", f"time, {steps[0].name} = 1"], rows))


def in_turns(steps: Sequence[Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per step of each work, round by round; a round is one step in each of MAM's modes."""
    found: dict[str, list[float]] = {work.name: [] for work in steps}
    for number in range(-1, rounds):
        for work in steps:
            started = time.perf_counter()
            for place in range(MODES):
                work.step((number + 1) * MODES + place)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:  # the first round warms up
                found[work.name].append((time.perf_counter() - started) / MODES)
    return found


def setting_of(arguments: argparse.Namespace) -> Setting:
    recipe = recipe_of(arguments)
    shortest, longest = arguments.text or (recipe.text.limit, recipe.text.limit)
    batch = arguments.batch or recipe.pretrain.batch_size
    return Setting(recipe, torch.device(arguments.device), batch, shortest, longest)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    if arguments.recipe == "compared":
        return load_recipe("paper", ["model.start=random", *COMPARED, *arguments.set])
    return load_recipe(arguments.recipe, arguments.set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"floor": floor, "rungs": rungs, "parts": parts, "changes": changes, "compare": compare}
    parser.add_argument("what", choices=runs)
    parser.add_argument("--recipe", default="compared", help="a recipe; `compared`: paper's at width 384, 6 blocks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="samples of a step; default: the recipe's")
    parser.add_argument("--text", type=int, nargs=2, metavar=("SHORTEST", "LONGEST"), help="tokens of a text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of loader and trainer (rungs)")
    parser.add_argument("--compile", action="store_true", help="also compiled (changes)")
    parser.add_argument("--scratch", type=Path, help="where files are made (rungs)")
    arguments = parser.parse_args()
    setting = setting_of(arguments)
    config, where = setting.config, throughput.device_name(setting.device)
    print(heading(PACKAGES))
    print(f"On {where}: width {config.hidden_size}, {config.layers} blocks, pictures of {config.image_size} pixels,")
    print(f"batch {setting.batch}, texts of {setting.shortest} to {setting.longest} tokens, dropout {config.dropout}.")
    runs[arguments.what](setting, arguments)


if __name__ == "__main__":
    main()
