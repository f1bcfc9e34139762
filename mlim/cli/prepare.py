"""From a table to pairs: `mlim init`, `ingest`, `validate`, `pairs`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlim.cli.options import (
    DEFAULT_CATALOG,
    CatalogOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    SetOption,
    WorkOption,
)
from mlim.cli.session import Session
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import atomic_file, read_json

app = typer.Typer()


@app.command(epilog="Example: `mlim init catalog.csv`, edit catalog.yaml, `mlim run --catalog catalog.yaml`")
def init(
    table: Annotated[
        Path,
        typer.Argument(help="The table: CSV, TSV, JSON lines (also .gz) or Parquet; a file or a quoted pattern."),
    ],
    out: Annotated[Path | None, typer.Option(help="Default: catalog.yaml beside the table.")] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Delimiter of CSV and TSV; default: detected from the first lines.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Propose a commented catalog.yaml for a table."""
    from mlim.sources.starter import starter_yaml
    from mlim.sources.table import fixed_parent, table_files

    target = out or fixed_parent(table) / "catalog.yaml"
    if target.exists() and not force:
        raise InputError(f"{target} exists already; choose another --out or add --force")
    if not table.is_dir() and any(target.resolve() == file.path.resolve() for file in table_files(table)):
        raise InputError(f"--out {target}: is the table itself; choose another --out")
    terminal = Terminal()
    text = starter_yaml(table, target.parent, terminal.warn, delimiter)
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    command = shlex.join(["mlim", "run", "--catalog", str(target)])
    terminal.say(f"wrote {target}: review its comments and correct it, then `{command}`")


@app.command(epilog="Example: `mlim ingest --catalog data/catalog.yaml --recipe demo`")
def ingest(
    catalog: CatalogOption = DEFAULT_CATALOG,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the source, decode and resize the images, write shards; quarantine bad rows."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("ingest", catalog=catalog):
        _ingest(session, catalog)


@app.command(epilog="Example: `mlim validate --set validation.min_image_side=200`")
def validate(
    catalog: CatalogOption = DEFAULT_CATALOG,
    accept: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Accept this data version although checks fail; WHY is recorded."),
    ] = None,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Validate the ingested items with Great Expectations; quarantine rejected items."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("validate", catalog=catalog):
        _validate(session, catalog, accept)


@app.command(epilog="Example: `mlim pairs --set pairs.test_share=0.3`")
def pairs(
    catalog: CatalogOption = DEFAULT_CATALOG,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Split the items by family and image, and make the pairs for fine-tuning and testing."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("pairs", catalog=catalog):
        _pairs(session, catalog)


@app.command(epilog="Example: `mlim annotate --catalog scenes/catalog.yaml --work build/scenes`")
def annotate(
    catalog: CatalogOption = DEFAULT_CATALOG,
    if_any: Annotated[
        bool, typer.Option("--if-any", help="A catalog without annotations is no error; nothing is written of it.")
    ] = False,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read and check boxes, captions, questions and statements of a catalog that has them."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("annotate", catalog=catalog):
        _annotate(session, catalog, if_any)


@app.command(epilog="Example: `mlim regions annotated --catalog scenes/catalog.yaml --recipe mine.yaml`")
def regions(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="`annotated`, `grid`, `detector:PRETRAINING`, `tsv` (files of the catalog), `tsv:FILE`.",
        ),
    ],
    catalog: CatalogOption = DEFAULT_CATALOG,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Store the regions of every image with features, for systems that read regions (LXMERT)."""
    session = Session(recipe, set_, work, quiet, as_json)
    with session.step("regions", catalog=catalog):
        with session.loading():
            from mlim.steps.recorded import record
            from mlim.steps.regions import regions as run_step

        summary = run_step(session.recipe, catalog, session.workspace, session.terminal, source)
        folder = session.workspace.regions(source)
        record(session.recipe, session.workspace, f"regions-{folder.name}", folder)
        session.show(summary, f"wrote {folder}")


def prepare(session: Session, catalog: Path) -> None:
    """Ingest, validate and pair a catalog, unless the work folder has pairs of it; never those of another one.

    Where tasks of the recipe read annotations, what the catalog has of them, too.
    """
    if not session.workspace.pairs.is_dir():
        _ingest(session, catalog)
        _validate(session, catalog)
        _pairs(session, catalog)
    work, there = session.workspace.root, read_json(session.workspace.items / "summary.json")["catalog"]
    if Path(there).resolve() != catalog.resolve():
        raise InputError(f"--work {work}: holds the pairs of {there}, not of {catalog}; choose another folder")
    with session.loading():
        from mlim.steps.plan import ANNOTATE, preparation

    read = any(stage.command == ANNOTATE for stage in preparation(session.recipe))
    if read and not session.workspace.annotations.is_dir():
        _annotate(session, catalog, if_any=True)


def _ingest(session: Session, catalog: Path) -> None:
    with session.loading():
        from mlim.steps.ingest import ingest as run_step
        from mlim.steps.recorded import record

    summary = run_step(session.recipe, catalog, session.workspace, session.terminal)
    record(session.recipe, session.workspace, "ingest", session.workspace.items)
    bad = summary["quarantined"]
    session.show(
        summary,
        f"{summary['rows_in']} rows in = {summary['ingested']} ingested + {sum(bad.values())} quarantined "
        f"({_counts(bad)})",
    )


def _validate(session: Session, catalog: Path, accept: str | None = None) -> None:
    with session.loading():
        from mlim.quality.acceptance import Acceptance
        from mlim.steps.recorded import record
        from mlim.steps.validate import validate as run_step
        from mlim.versions import person

    accepted = None if accept is None else Acceptance(person(), accept)
    summary = run_step(session.recipe, catalog, session.workspace, session.terminal, accepted)
    record(session.recipe, session.workspace, "validate", session.workspace.valid)
    session.show(
        summary,
        f"{summary['checked']} items checked, {summary['accepted']} accepted, quarantined: "
        f"{_counts(summary['quarantined'])}; see {session.workspace.valid / 'data_docs' / 'index.html'}",
    )


def _pairs(session: Session, catalog: Path) -> None:
    with session.loading():
        from mlim.steps.pairs import make_pairs as run_step
        from mlim.steps.recorded import record

    summary = run_step(session.recipe, catalog, session.workspace, session.terminal)
    record(session.recipe, session.workspace, "pairs", session.workspace.pairs)
    if not summary["pairs"]:
        session.show(summary, f"wrote {session.workspace.pairs}")
        return
    session.show(summary, f"wrote {session.workspace.pairs}; leak audit: {_audit(summary)}")


def _audit(summary: Mapping[str, Any]) -> str:
    """What the audit says of all pairs together; a rule that leaks in one split alone fails the suite `pairs`."""
    if leaks := [entry["rule"] for entry in summary["leak_audit"] if entry["leaks"]]:
        return f"these simple rules give the answer away: {', '.join(leaks)}"
    splits = sum(each["suite"] == "pairs" and not each["success"] for each in summary["expectations"])
    if splits:
        return f"a simple rule gives it away in {splits} of {len(summary['counts'])} splits: see the warnings"
    return "no simple rule gives it away"


def _annotate(session: Session, catalog: Path, if_any: bool) -> None:
    with session.loading():
        from mlim.steps.annotate import annotate as run_step
        from mlim.steps.recorded import record

    summary = run_step(session.recipe, catalog, session.workspace, session.terminal, if_any)
    record(session.recipe, session.workspace, "annotate", session.workspace.annotations)
    session.show(summary, f"wrote {session.workspace.annotations}")


def _counts(quarantined: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(quarantined.items())) or "none"
