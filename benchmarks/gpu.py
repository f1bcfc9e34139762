"""What the training engine does on a GPU, in one call of at most ten minutes; without one, what can be known before.

    python benchmarks/gpu.py measure [--recipe paper] [--device cuda] [--minutes 10] [--scratch DIR]
    python benchmarks/gpu.py plan [--recipe paper]

`measure` prints part after part, so that a call that is cut off leaves those before: the four rungs of engine.py; the
losses of a few steps in bf16, and in fp8 where torchao is installed, beside fp32 and another seed; pairs scored; peak
memory by batch; pictures decoded by libjpeg-turbo on one core, and by the GPU where torchvision is installed. A part
that fails says why, and the others go on; one that would begin after its minutes is left out by name.

`plan` runs on any machine: memory by batch from shapes on torch's meta device, and how often the compiler interrupts
the graph of each part. Operations, bytes and time are those of `engine.py floor`.
"""

import argparse
import io
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import engine
import numpy as np
import torch
from engine_data import jpeg
from engine_works import BATCHES, LOSSES, MODES, Setting, our_losses
from late_joining import sides
from measure import heading, table
from torch import Tensor, nn

from mlim.data.transfer import to_device
from mlim.models.costs import Sample, part_costs
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.pair_network import PAIR
from mlim.models.transformer import Encoder, take_tokens
from mlim.models.weights import on_meta
from mlim.tasks.build import pretrain_objective

PACKAGES = ("mlim", "torch", "transformers")
STEPS: Final = 8 * MODES  # of a training whose losses are compared
LAST: Final = 2 * MODES  # of these, over which losses are averaged
BATCH_SIZES: Final = (16, 32, 64, 128, 256)
COUNTED: Final = (8, 16)  # batches on the meta device, from which those of other sizes follow
PAIRS: Final = 256
PAIRS_PER_ITEM: Final = 100
PICTURES: Final = 512
ROUNDS: Final = 5
FP8_MULTIPLE: Final = 16  # of both sides of a matrix
TRAINED_BYTES: Final = 18  # of a weight: itself, gradient, two moments in fp32, and its copy in bf16
GIB: Final = 2**30
MINUTE: Final = 60.0


class Trained(NamedTuple):
    """Losses of some steps, and the median seconds of one."""

    losses: list[float]
    seconds: float


# ---- measured ----


def measure_rungs(setting: Setting, arguments: argparse.Namespace) -> None:
    """The transformer alone, the model, the loader, the trainer."""
    engine.rungs(setting, arguments)


def measure_losses(setting: Setting, arguments: argparse.Namespace) -> None:
    """The same steps in several precisions."""
    plain = train(setting, torch.float32)
    rows = {
        "fp32": plain,
        "bf16": train(setting, torch.bfloat16),
        "bf16, another seed": train(setting, torch.bfloat16, seed=1),
    }
    try:
        rows["fp8 (torchao)"] = train(setting, torch.bfloat16, change=to_fp8)
    except ImportError as error:
        print(f"fp8: not measured ({error})\n")
    told = []
    for name, found in rows.items():
        last = statistics.mean(found.losses[-LAST:])
        told.append([name, f"{1e3 * found.seconds:,.0f}", f"{rows['bf16'].seconds / found.seconds:.2f}", f"{last:.4f}"])
        told[-1].append(f"{last - statistics.mean(plain.losses[-LAST:]):+.4f}")
    columns = ["precision", "ms per step", "times as fast as bf16", f"mean loss of the last {LAST}", "minus fp32"]
    print(table(columns, told))


def train(
    setting: Setting,
    dtype: torch.dtype,
    seed: int = 0,
    change: Callable[[Mlim], None] = lambda _: None,
    steps: int = STEPS,
) -> Trained:
    """So many steps from the same weights, those of `seed`."""
    model, batches = Mlim.random(setting.config, seed), setting.batches()
    objective = pretrain_objective(model, setting.recipe.pretrain, LOSSES, setting.recipe.text.limit, seed=0)
    model.to(setting.device).train()
    change(model)
    if setting.recipe.compute.compile:
        model.compile_parts()
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.recipe.pretrain.optim.learning_rate, fused=True)
    torch.manual_seed(seed)
    losses, spent = list[Tensor](), list[float]()
    for step in range(steps):
        started = time.perf_counter()
        prepared = to_device(objective.prepare(batches[step % BATCHES], step), setting.device)
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = our_losses(objective, prepared)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait_for(setting.device)
        losses.append(loss.detach())
        spent.append(time.perf_counter() - started)
    return Trained([float(loss) for loss in losses], statistics.median(spent[MODES:] or spent))


def to_fp8(model: Mlim) -> None:
    """The blocks' matrices that the format can hold; `ImportError` without torchao."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def fits(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear) and not (
            module.in_features % FP8_MULTIPLE or module.out_features % FP8_MULTIPLE
        )

    padded = Float8LinearConfig(pad_inner_dim=True)  # a batch has any number of tokens
    convert_to_float8_training(model.backbone.encoder, module_filter_fn=fits, config=padded)


def measure_memory(setting: Setting, arguments: argparse.Namespace) -> None:
    """The peak of a step by batch, beside what the shapes say."""
    if setting.device.type != "cuda":
        print(f"not measured: no counter of the memory of {setting.device.type}")
        return
    rows = []
    for batch in BATCH_SIZES:
        of_batch = of(setting, batch)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
        try:
            train(of_batch, torch.bfloat16, steps=MODES)
        except torch.OutOfMemoryError:
            rows.append([str(batch), "more than there is", f"{planned_bytes(of_batch) / GIB:.1f}"])
            break
        peak = torch.cuda.max_memory_allocated(setting.device)
        rows.append([str(batch), f"{peak / GIB:.1f}", f"{planned_bytes(of_batch) / GIB:.1f}"])
    print(table(["batch", "GiB at most", "GiB from shapes"], rows))


def measure_scoring(setting: Setting, arguments: argparse.Namespace) -> None:
    """Pairs a second, all blocks joint and one."""
    config, tokens = setting.config, setting.longest - 2
    first, second = (to_device(side, setting.device) for side in sides(config, PAIRS, tokens))
    rows = []
    for joint in (None, 1):
        matcher = Matcher.from_mlim(Mlim.random(config, seed=0), 0.0, 0, "joint", joint_blocks=joint).eval()
        matcher.to(setting.device)
        with torch.inference_mode(), torch.autocast(setting.device.type, torch.bfloat16):
            states = [matcher.item_states(side, "both") for side in (first, second)]
            item = seconds_of(lambda of=matcher: of.item_states(first, "both"), setting.device) / PAIRS
            joining = seconds_of(lambda of=matcher, given=states: of.join(*given, "both"), setting.device) / PAIRS
        each = joining + PAIR * item / PAIRS_PER_ITEM
        rows.append(["all" if joint is None else str(joint), f"{1 / (joining + PAIR * item):,.0f}", f"{1 / each:,.0f}"])
    columns = ["joint blocks", "pairs/s, 1 pair per item", f"pairs/s, {PAIRS_PER_ITEM} pairs per item"]
    print(table(columns, rows))


def measure_decoding(setting: Setting, arguments: argparse.Namespace) -> None:
    """Pictures a second, by one core and by the GPU."""
    import simplejpeg

    jpegs = [jpeg(number, setting.recipe.image.size) for number in range(PICTURES)]
    core = seconds_of(lambda: [simplejpeg.decode_jpeg(one) for one in jpegs], torch.device("cpu"))
    rows = [["libjpeg-turbo, one core", f"{PICTURES / core:,.0f}"]]
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as error:
        print(f"GPU: not measured ({error})\n")
    else:
        bytes_of = [torch.from_numpy(np.frombuffer(io.BytesIO(one).getbuffer(), np.uint8).copy()) for one in jpegs]
        spent = seconds_of(lambda: decode_jpeg(bytes_of, ImageReadMode.RGB, setting.device), setting.device)
        rows.append([f"torchvision, {setting.device.type}", f"{PICTURES / spent:,.0f}"])
    print(table(["decoder", "pictures/s"], rows))


def of(setting: Setting, batch: int) -> Setting:
    """The same at another batch; its texts differ in length by a token, so that the kernel is that for packed ones."""
    return Setting(setting.recipe, setting.device, batch, setting.longest - 1, setting.longest)


PARTS: Final[dict[str, Callable[[Setting, argparse.Namespace], None]]] = {
    "rungs": measure_rungs,
    "losses": measure_losses,
    "scoring": measure_scoring,
    "memory": measure_memory,
    "decoding": measure_decoding,
}


def measure(setting: Setting, arguments: argparse.Namespace) -> None:
    """Part after part, as long as there are minutes left."""
    started = time.monotonic()
    for name in arguments.parts:
        print(f"\n## {name}\n", flush=True)
        if time.monotonic() - started > arguments.minutes * MINUTE:
            print("left out: the minutes are over", flush=True)
            continue
        try:
            PARTS[name](setting, arguments)
        except Exception:  # the other parts may still tell something
            print(f"failed:\n\n{traceback.format_exc()}")
        print(f"\n{time.monotonic() - started:.0f} s so far", flush=True)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The median of some rounds; the first call warms up."""
    work()
    spent = []
    for _ in range(ROUNDS):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def wait_for(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- planned ----


def plan(setting: Setting, arguments: argparse.Namespace) -> None:
    """What shapes and graphs tell without a device."""
    print("Memory from shapes:\n")
    rows = [[str(batch), f"{planned_bytes(of(setting, batch)) / GIB:.1f}"] for batch in BATCH_SIZES]
    print(table(["batch", "GiB"], rows))
    print("\nGraphs that torch.compile makes:\n")
    print(table(["part", "graphs", "interruptions"], graphs(setting)))


def planned_bytes(setting: Setting) -> float:
    """Weights, gradients, moments, and what a step in bf16 keeps for its backward pass, counted without values.

    Norms and losses are kept in bf16 here and in fp32 by autocast: a step takes somewhat more.
    """
    weights = sum(cost.weights for cost in part_costs(setting.config, Sample(1, 0, setting.config.patches)).values())
    few, more = (kept_bytes(of(setting, batch)) for batch in COUNTED)
    of_each = (more - few) / (COUNTED[1] - COUNTED[0])
    return TRAINED_BYTES * weights + few + (setting.batch - COUNTED[0]) * of_each


def kept_bytes(setting: Setting) -> int:
    """What autograd keeps of a step, beside the weights."""
    with flash_everywhere(), kept_tensors() as kept:
        model = on_meta(lambda: Mlim(setting.config)).to(torch.bfloat16).train()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        recipe = setting.recipe
        objective = pretrain_objective(model, recipe.pretrain, LOSSES, recipe.text.limit, seed=0)
        prepared = to_device(objective.prepare(setting.batches()[0], 0), torch.device("meta"))
        batch = prepared.batch._replace(pixels=prepared.batch.pixels.to(torch.bfloat16))
        our_losses(objective, prepared._replace(plan=prepared.plan._replace(batch=batch)))
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for storage, size in storages.items() if storage not in own)


@contextmanager
def flash_everywhere() -> Iterator[None]:
    """The kernel that a GPU has, also where none is."""
    chosen = Encoder._may_flash
    Encoder._may_flash = lambda self, hidden: True
    try:
        yield
    finally:
        Encoder._may_flash = chosen


@contextmanager
def kept_tensors() -> Iterator[list[Tensor]]:
    """What autograd keeps of the operations in the block."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def graphs(setting: Setting) -> Sequence[Sequence[str]]:
    """How many graphs the compiler makes of a block, the embedder and the decoder, and what interrupts them."""
    config = setting.config
    model = Mlim.random(config.model_copy(update={"layers": 1}), seed=0).train()
    batch = setting.batches()[0]
    packing = model.pack_items(batch.text_attention)
    hidden = take_tokens(torch.randn(*packing.attention_mask.shape, config.hidden_size), packing)
    given: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
        "block": (model.backbone.encoder.blocks[0], (hidden, packing)),
        "embedder": (model.backbone.image_embedder, (batch.with_floats().pixels,)),
        "decoder": (model.decoder, (torch.randn(setting.batch, config.patches, config.hidden_size),)),
    }
    rows = []
    for name, (module, inputs) in given.items():
        torch.compiler.reset()
        found = torch._dynamo.explain(module)(*inputs)
        rows.append([name, str(found.graph_count), str(found.graph_break_count)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"measure": measure, "plan": plan}
    parser.add_argument("what", choices=runs)
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    parser.add_argument("--device", default="cuda", help="where to measure")
    parser.add_argument("--batch", type=int, help="samples of a step; default: the recipe's")
    parser.add_argument("--text", type=int, nargs=2, metavar=("SHORTEST", "LONGEST"), help="tokens of a text")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no other part begins")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of loader and trainer (rungs)")
    parser.add_argument("--scratch", help="where files are made (rungs)")
    arguments = parser.parse_args()
    arguments.set = ["model.start=random", *arguments.set]
    if arguments.what == "plan":
        arguments.device = "cpu"
    print(heading(PACKAGES))
    runs[arguments.what](engine.setting_of(arguments), arguments)


if __name__ == "__main__":
    main()
