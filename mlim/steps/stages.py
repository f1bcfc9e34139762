"""What every stage reads and writes, and which settings of the recipe it follows: all that makes its result stale.

The one definition: `mlim pipeline` writes dvc.yaml from it, tests compare it with what the steps really read. A stage
that is there once for each run is defined for any run; `${item.name}` and `${item.seed}`, which DVC fills in, stand for
it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlim.annotations.tables import (
    CAPTIONS,
    QUESTIONS,
    REGIONS,
    SCHEMAS,
    TEXT_TABLES,
    VOCABULARIES_FILE,
    table_file,
)
from mlim.recipe import Pretraining, Recipe, Variant
from mlim.recipe.finetune import BEYOND_MATCHING
from mlim.recipe.image_sides import ANNOTATED, TSV
from mlim.recipe.systems import region_side
from mlim.run_events import StageFiles
from mlim.steps.plan import ANNOTATE, MAIN_PIPELINE, Pipeline, annotate_options, everything, regions_read
from mlim.versions import lineage
from mlim.workspace import Workspace

NAME, SEED, MAIN_SEED = "${item.name}", "${item.seed}", "${seeds[0]}"
WHOLE_RECIPE = "*"  # in place of keys
NETWORK = ("device", "image", "text", "model", "compute.precision", "loader.items")
INDEX, QUARANTINE, SUMMARY, PAIRS, MEMBERS = (
    *("index.parquet", "quarantine.parquet", "summary.json"),
    *("pairs.parquet", "items.parquet"),
)
MODEL, SCORES = "model", "scores.parquet"
JUDGED_BY = ("above_chance", "above_baselines", "max_one_answer", "min_kind_pairs", "min_kind_right")  # of the gate
RESAMPLING = ("evaluate.bootstrap_samples", "evaluate.confidence")

# Settings that a stage may read and does not follow: its result is the same, whatever they say.
SAME_RESULT: Mapping[str, str] = {
    "ingest.workers": "how many processes decode",
    "ingest.cluster": "which machines do the work",
    "loader.workers": "how many processes decode",
    "loader.batches_ahead": "how early batches are made",
    "loader.image_cache_mb": "how many decoded pictures stay in memory",
    "compute.processes": "on how many devices the same losses are computed",
    "compute.side_by_side": "how many stages run at the same time",
    "compute.shard": "how devices share their memory",
    "compute.compile": "how fast the same losses are computed",
    "compute.checkpoint_blocks": "what is computed again to save memory",
    "compute.trace": "which steps are profiled",
    "pretrain.checkpoint": "how often a running training is saved",
    "finetune.checkpoint": "how often a running training is saved",
    "evaluate.batch_size": "how many pairs are scored at a time",
}


@dataclass(frozen=True)
class Definition:
    """A stage, or all stages of one kind: one for each seed of each of `runs` (variants or pre-trainings).

    Of a detector that only makes regions there is only the `first_seed`.

    `settings` are keys of the recipe, sections or single ones; `arguments` follow the command of a stage that is there
    once. The code is that of the command's step with all that it imports; `also_modules` are those of
    `closure.WITHOUT_EFFECT` that have one here.
    """

    command: str
    what: str
    reads: Sequence[Path]
    writes: Sequence[Path]
    settings: Sequence[str]
    runs: Sequence[str] = ()
    arguments: Sequence[str] = ()
    also_modules: Sequence[str] = ()
    first_seed: bool = False

    @property
    def modules(self) -> list[str]:
        """Where the result's code begins."""
        return [f"mlim.steps.{self.command}", *self.also_modules]


def define_stages(recipe: Recipe, work: Workspace, pipeline: Pipeline = MAIN_PIPELINE) -> dict[str, Definition]:
    """The stages of a recipe's pipeline by their names in dvc.yaml, in the order in which they run."""
    runs: dict[tuple[str, str], list[str]] = {}
    seeds: dict[tuple[str, str], set[int | None]] = {}
    for stage in everything(recipe, pipeline.matches):
        names = runs.setdefault((stage.kind, stage.command), [])
        seeds.setdefault((stage.kind, stage.command), set()).add(stage.seed)
        names += [stage.name] if stage.name is not None and stage.name not in names else []
    return {
        kind: replace(
            _DEFINITIONS[command](recipe, work, names, pipeline),
            first_seed=len(seeds[kind, command]) < len(recipe.seeds),
        )
        for (kind, command), names in runs.items()
    }


def files_of(command: str, recipe: Recipe, work: Workspace, catalog: Path | None) -> StageFiles | None:
    """What a command of the pipeline reads and writes, for the events about it; None for a command that is no stage."""
    pipeline = MAIN_PIPELINE if catalog is None else replace(MAIN_PIPELINE, catalog=catalog)
    definitions = [each for each in define_stages(recipe, work, pipeline).values() if each.command == command]
    if not definitions:
        return None
    reads = [path for each in definitions for path in each.reads]
    writes = [path for each in definitions for path in each.writes]
    return StageFiles(command, definitions[0].what, reads, writes, lambda: _tags(recipe, work))


def _tags(recipe: Recipe, work: Workspace) -> dict[str, str]:
    """What a result comes from: its recipe, commit and data."""
    origin = lineage(work)
    return {
        "recipe": recipe.name,
        "commit": origin.commit,
        "dirty": str(origin.dirty).lower(),
        "data_version": origin.data_version,
        "manifest": origin.items,
    }


def _ingest(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "ingest",
        "raw catalog -> shards; bad rows to quarantine",
        reads=[pipeline.catalog.parent],
        writes=[work.items],
        settings=["image.size", "image.jpeg_quality", *_section(recipe, "ingest")],
    )


def _validate(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "validate",
        "Great Expectations; rejected items to quarantine",
        reads=[pipeline.catalog, work.items],
        # Data Docs carry the time of the run: they lie beside these files, but are no output
        writes=[work.valid / name for name in (INDEX, QUARANTINE, "profile.json", SUMMARY)],
        settings=["image.size", "text", "model.start", "validation"],
    )


def _pairs(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "pairs",
        "family-safe split and pairs by type of variation",
        # all of the catalog: the description may name a file of labelled pairs
        reads=[pipeline.catalog.parent, work.valid / INDEX, work.valid / QUARANTINE, work.items / QUARANTINE],
        writes=[work.pairs / name for name in (MEMBERS, PAIRS, SUMMARY)],
        settings=["seed", "pairs", "validation.min_label_share"],
    )


def _annotate(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "annotate",
        "boxes, captions, questions and statements; bad ones to quarantine",
        # all of the catalog: the description names files of annotations
        reads=[pipeline.catalog.parent, work.items, work.valid / INDEX, work.pairs / MEMBERS],
        writes=[work.annotations],
        settings=["seed", "loader.items"],
        arguments=annotate_options(recipe),
    )


def _regions(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    (source,) = runs
    side = next(side for side in regions_read(recipe) if side.source == source)
    made_from = _annotations(work, [REGIONS]) if source == ANNOTATED else []
    if side.detector is not None:
        made_from = [work.pretrained(side.detector, MAIN_SEED) / MODEL]
    catalog = pipeline.catalog.parent if source == TSV else pipeline.catalog  # the description names files of regions
    return Definition(
        "regions",
        f"regions of source {source} with features",
        reads=[catalog, work.items, work.valid / INDEX, *made_from],
        writes=[work.regions(source)],
        settings=["device", "image.size", "systems", "seeds", "loader.items"],
        arguments=[source],
    )


def _stored_regions(recipe: Recipe, work: Workspace, entries: Iterable[Pretraining | Variant]) -> list[Path]:
    """The regions that systems of these pre-trainings or variants read."""
    sides = [region_side(recipe.system_of(entry)) for entry in entries]
    sources = {side.source: None for side in sides if side is not None and side.is_stored}
    return [work.regions(source) for source in sources]


def _pretrain(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "pretrain",
        "MLM and RECON or ITM under a masking policy",
        reads=[
            *_training_data(work),
            *_annotations(work, [*_learned_words(recipe), *_taught(recipe, runs)]),
            *_stored_regions(recipe, work, [recipe.pretrainings[name] for name in runs]),
        ],
        writes=[work.pretrained(NAME, SEED)],
        # and probe.reconstruction_masking, for pictures to look at while it trains
        settings=[*NETWORK, *_systems(recipe), *_section(recipe, "pretrain"), f"pretrainings.{NAME}"],
        runs=runs,
    )


def _annotations(work: Workspace, tables: Iterable[str]) -> list[Path]:
    """The files of these tables; beside objects and questions is what they are called and answered by."""
    read = set(tables)
    vocabularies = [work.annotations / VOCABULARIES_FILE] if read & {REGIONS, QUESTIONS} else []
    return [*(table_file(work.annotations, table) for table in SCHEMAS if table in read), *vocabularies]


def _learned_words(recipe: Recipe) -> tuple[str, ...]:
    """The tables whose texts tokenizers learn."""
    return TEXT_TABLES if recipe.learns_annotated_words else ()


def _taught(recipe: Recipe, runs: Sequence[str]) -> Iterator[str]:
    """The tables that the tasks of these pre-trainings read."""
    yield from (table for name in runs for task in recipe.pretrainings[name].all_tasks for table in task.tables)


def _asked(recipe: Recipe, runs: Sequence[str]) -> Iterator[str]:
    """The tables that the tasks of these variants read."""
    sections = [recipe.tasks.section(task) for task in recipe.other_tasks if task in _tasks(recipe, runs)]
    yield from (section.table for section in sections if section is not None and section.table is not None)


def _tasks(recipe: Recipe, runs: Sequence[str]) -> set[str]:
    return {recipe.variants[run].task for run in runs}


def _finetune(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    start = _start(recipe, runs)
    return Definition(
        "finetune",
        "a variant: match or mismatch, with modality dropout",
        reads=[
            *_training_data(work),
            *_annotations(work, [*(_learned_words(recipe) if start is None else ()), *_asked(recipe, runs)]),
            *_stored_regions(recipe, work, [recipe.variants[name] for name in runs]),
            *([] if start is None else [work.pretrained(start, SEED) / MODEL]),
        ],
        writes=[work.finetuned(NAME, SEED)],
        settings=[
            *(*NETWORK, *_systems(recipe), *_tuning_settings(recipe, runs)),
            *_variant_settings(recipe, runs),
            *([] if start is None else _start_settings(recipe, start)),
        ],
        runs=runs,
    )


def _start(recipe: Recipe, runs: Sequence[str]) -> str | None:
    """What the variants of one kind start from: a pre-training of the same name, or all from the same one, or none."""
    starts = {recipe.variants[variant].pretraining for variant in runs}
    return NAME if starts == set(runs) else starts.pop()


def _variant_settings(recipe: Recipe, runs: Sequence[str]) -> list[str]:
    """What decides a variant of one kind; all of it where one of them says what most variants leave out."""
    variants = [recipe.variants[run].model_dump() for run in runs]
    beyond = {key for variant in variants for key in variant} & {*BEYOND_MATCHING, "system", "read_out"}
    return [f"variants.{NAME}"] if beyond else [f"variants.{NAME}.{key}" for key in ("pretraining", "mdo", "modality")]


def _tuning_settings(recipe: Recipe, runs: Sequence[str]) -> Iterator[str]:
    """The sections of the tasks of these variants."""
    tasks = _tasks(recipe, runs)
    if "match" in tasks:
        yield from _section(recipe, "finetune")
    for task in sorted(tasks - {"match"}):  # its keys are those of `finetune`, and more
        keys = recipe.model_dump(include={"tasks"})["tasks"][task]
        yield from (f"tasks.{task}.{key}" for key in keys if f"finetune.{key}" not in SAME_RESULT)


def _systems(recipe: Recipe) -> list[str]:
    """The shapes of networks beside MLIM's, where there are any."""
    return ["systems"] if recipe.systems else []


def _start_settings(recipe: Recipe, start: str) -> list[str]:
    """What the key of a training (`Recipe.training_key`) says of the pre-training that a stage uses."""
    deciding = [key for key in _section(recipe, "pretrain") if key != "pretrain.max_skipped_steps"]
    return [*deciding, f"pretrainings.{start}"]


def _stack(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "stack",
        "baselines, and the matcher combined with simple systems; which of them is registered",
        reads=[*_training_data(work), work.finetuned(recipe.main, MAIN_SEED) / SCORES],
        writes=[work.stack],
        settings=[
            "seed",
            "seeds",
            "main",
            f"variants.{recipe.main}.modality",
            "loader.items",
            *_section(recipe, "stack"),
        ],
    )


def _evaluate(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "evaluate",
        "PR-AUC of what is registered and of the matcher with intervals; baselines on the same pairs",
        reads=[
            *(work.pairs / PAIRS, work.pairs / MEMBERS),
            *(work.finetuned(recipe.main, MAIN_SEED) / SCORES, work.stack),
        ],
        writes=[work.evaluation],
        settings=[
            "seed",
            "seeds",
            "main",
            f"variants.{recipe.main}.modality",
            *_section(recipe, "evaluate"),
            *(f"gate.{key}" for key in JUDGED_BY),
        ],
    )


def _ablate(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "ablate",
        "Tables 1 and 2 with paired bootstrap",
        reads=[
            *(work.pairs / MEMBERS, work.pairs / PAIRS),
            *_trainings(work),
            *_caption_baselines(recipe, work, pipeline),
        ],
        writes=[work.ablation],
        settings=["seed", "seeds", "finetunings", "main", "variants", *RESAMPLING],
    )


def _caption_baselines(recipe: Recipe, work: Workspace, pipeline: Pipeline) -> list[Path]:
    """What captions are compared with is made of captions and images of the train split."""
    told = "caption" in recipe.other_tasks and _annotates(recipe, pipeline)
    return [*_annotations(work, [CAPTIONS]), work.valid / INDEX] if told else []


def _annotates(recipe: Recipe, pipeline: Pipeline) -> bool:
    return any(stage.command == ANNOTATE for stage in everything(recipe, pipeline.matches))


def _probe(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    start = recipe.main_variant.pretraining
    return Definition(
        "probe",
        "Figure 2, reconstructions, neighbours, attention",
        reads=[work.items, work.valid / INDEX, work.pairs / MEMBERS, _trainings(work)[0]],
        writes=[work.probe],
        settings=[
            *("seed", "seeds", "device", "main", f"variants.{recipe.main}.pretraining"),
            *([] if start is None else _start_settings(recipe, start)),
            *("image", "text", "model", *_systems(recipe), "loader.items", "probe", *RESAMPLING),
        ],
    )


def _report(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "report",
        "one self-contained HTML page",
        reads=[
            *_everything_prepared(work),
            *(*_trainings(work), work.ablation),
            *((work.evaluation, work.probe, work.registration) if pipeline.matches else ()),
            *((work.annotations,) if _annotates(recipe, pipeline) else ()),
        ],
        writes=[work.report],
        settings=[WHOLE_RECIPE],  # the page shows it
        also_modules=["mlim.versions"],  # and says from which code and data it is
    )


def _register(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    start = recipe.main_variant.pretraining
    return Definition(
        "register",
        "MLflow's registry; champion when it beats the present one",
        reads=[
            *(*_everything_prepared(work), work.stack, work.evaluation, work.finetuned(recipe.main, MAIN_SEED)),
            *([] if start is None else [work.pretrained(start, MAIN_SEED) / SUMMARY]),
        ],
        writes=[work.registration],
        settings=[WHOLE_RECIPE],  # a version says which recipe it is from
        also_modules=["mlim.tracking", "mlim.offline", "mlim.versions"],
    )


def _match(recipe: Recipe, work: Workspace, runs: Sequence[str], pipeline: Pipeline) -> Definition:
    return Definition(
        "match",
        "candidates, scores and groups of the whole catalog, and a page",
        reads=[
            *(pipeline.catalog, *_everything_prepared(work)),
            *(work.stack, work.evaluation, work.finetuned(recipe.main, MAIN_SEED), work.gate_decision),
        ],
        writes=[work.matches],
        settings=["name", "seed", "match", "loader.items", *RESAMPLING],
        also_modules=["mlim.steps.packaged"],  # the model is the run's own
    )


def _training_data(work: Workspace) -> list[Path]:
    return [work.items, work.valid / INDEX, work.pairs / PAIRS, work.pairs / MEMBERS]


def _everything_prepared(work: Workspace) -> list[Path]:
    return [*_training_data(work), work.valid / QUARANTINE, work.valid / SUMMARY, work.pairs / SUMMARY]


def _trainings(work: Workspace) -> list[Path]:
    """All pre-trainings and all fine-tunings: how many seeds there are, params.yaml alone says."""
    return [work.pretrained(NAME, SEED).parent, work.finetuned(NAME, SEED).parent]


def _section(recipe: Recipe, section: str) -> Iterator[str]:
    """The keys of a section that are followed: the section itself, or its keys without those of `SAME_RESULT`."""
    keys = [f"{section}.{key}" for key in recipe.model_dump(include={section})[section]]
    followed = [key for key in keys if key not in SAME_RESULT]
    yield from [section] if followed == keys else followed


_DEFINITIONS: Mapping[str, Callable[[Recipe, Workspace, Sequence[str], Pipeline], Definition]] = {
    "ingest": _ingest,
    "validate": _validate,
    "pairs": _pairs,
    "annotate": _annotate,
    "regions": _regions,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "stack": _stack,
    "evaluate": _evaluate,
    "ablate": _ablate,
    "probe": _probe,
    "report": _report,
    "register": _register,
    "match": _match,
}
