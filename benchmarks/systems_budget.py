"""What recipe `systems` costs, by arithmetic: its steps times the processor time of a step (benchmarks/systems.py).

    python benchmarks/systems_budget.py

`MS` is processor time of one pre-training step of 16 items on one thread (docs/systems.md, "What a step costs"); that
of E2E-VLP holds 10 ms for detection. A fine-tuning step costs at most as much for each image as a pre-training step
without its decoder, so that every line is an upper bound. Validation, start and end of a training are the allowance.
"""

from collections.abc import Iterator
from typing import Final

from mlim.recipe import Recipe, load_recipe

MS: Final = {"mlim": 39, "vilt": 29, "pixel-bert": 42, "dual": 31, "git": 41, "lxmert": 59, "e2e-vlp": 110}
WHOLE: Final = {**MS, "pixel-bert": 46, "e2e-vlp": 46}  # all cells of the grid; the encoder alone
ITEMS: Final = 16  # of a step of MS
FORWARD: Final = 1 / 3  # of a step
LONGER: Final = (46 + 16) / (20 + 16)  # the vectors of the longest statements with their picture, as a share of those
ANSWER: Final = 3  # tokens of an answer that is written, with [SEP]
JUDGED: Final = 16_000  # questions of both judged splits of 6,000 scenes
ALLOWANCE: Final = 1.05
MINUTE: Final = 60_000  # ms


def pretraining(recipe: Recipe) -> float:
    """Minutes of all pre-trainings of one seed."""
    used = {variant.pretraining for variant in recipe.variants.values()}
    names = [recipe.pretrainings[name].system or "mlim" for name in recipe.pretrainings if name in used]
    return sum(MS[name] for name in names) * recipe.pretrain.steps * recipe.pretrain.batch_size / ITEMS / MINUTE


def tuning(recipe: Recipe) -> Iterator[tuple[str, int, float]]:
    """Each task with its trainings and their minutes for one seed."""
    for task in recipe.other_tasks:
        section, variants = recipe.tasks.section(task), recipe.of_task(task).variants
        trained = [variant for variant in variants.values() if not variant.zero_shot]
        passes = {"statement": 2 * LONGER, "detect": 1.25}.get(task, 1.0)  # the decoder of detection: 10 ms on 46
        minutes = sum(
            WHOLE[_system(recipe, variant.pretraining)]
            * section.steps
            * section.batch_size
            * (_passes(recipe, variant.pretraining) if task == "retrieval" else passes)
            / ITEMS
            / MINUTE
            for variant in trained
        )
        yield task, len(trained), minutes


def _system(recipe: Recipe, pretraining: str) -> str:
    return recipe.pretrainings[pretraining].system or "mlim"


def _passes(recipe: Recipe, pretraining: str) -> float:
    """Passes of a retrieval step for each item: one by vectors, by agreement one more for each negative, both ways."""
    return 1.0 if _system(recipe, pretraining) == "dual" else 1 + 2 * recipe.tasks.retrieval.negatives


def judging(recipe: Recipe) -> float:
    """Minutes to search the galleries of both splits by agreement, and to write the captions and answers of both."""
    pairs, tasks = 2 * recipe.tasks.retrieval.gallery**2, recipe.tasks
    ranked = [v.pretraining for v in recipe.of_task("retrieval").variants.values()]
    agreement = sum(WHOLE[_system(recipe, name)] for name in ranked if _system(recipe, name) != "dual")
    written = [v.pretraining for v in recipe.of_task("caption").variants.values()]
    tokens = 2 * tasks.caption.images * tasks.caption.beam * recipe.text.max_tokens / 2
    words = sum(WHOLE[_system(recipe, name)] for name in written) * tokens
    words += sum(
        WHOLE[_system(recipe, variant.pretraining)] * JUDGED * tasks.answer.beam * ANSWER
        for variant in recipe.of_task("answer").variants.values()
        if variant.by == "text"
    )
    return (agreement * pairs + words) * FORWARD / ITEMS / MINUTE


def main() -> None:
    """Print the table."""
    recipe = load_recipe("systems")
    used = {variant.pretraining for variant in recipe.variants.values()} - {None}
    lines = [
        ("pre-training", len(used), pretraining(recipe)),
        *tuning(recipe),
        ("searching, writing", 0, judging(recipe)),
    ]
    print("| part | trainings | core-minutes, one seed |\n| --- | --- | --- |")
    for name, trainings, minutes in lines:
        print(f"| {name} | {trainings or ''} | {minutes:.1f} |")
    seed = ALLOWANCE * sum(minutes for _, _, minutes in lines)
    print(f"| all, and {ALLOWANCE - 1:.0%} | {sum(number for _, number, _ in lines)} | {seed:.1f} |")
    print(f"\n{len(recipe.seeds)} seeds: {len(recipe.seeds) * seed:.0f} core-minutes")


if __name__ == "__main__":
    main()
