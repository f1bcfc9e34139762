"""The `mlim` command: one subcommand per step, the same options meaning the same everywhere."""

import errno
import importlib.util
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mlim.console import Terminal
from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, read_json
from mlim.processes import die_with_parent, is_follower, wait_briefly
from mlim.recipe import Recipe, load_recipe
from mlim.workspace import Workspace

DEFAULT_CATALOG = Path("data/catalog.yaml")
DISK_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="mlim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a product catalog to a registered model that says whether two items match.\n\n"
    "Start with `mlim run` on the embedded catalog (`mlim catalog synthesize` makes it), or with "
    "`mlim init catalog.csv` on your own. Every step of `mlim run` is also a command of its own.",
)
catalog_app = typer.Typer(no_args_is_help=True, help="Make the embedded catalog, or look at one.")
app.add_typer(catalog_app, name="catalog")

RecipeOption = Annotated[
    str, typer.Option("--recipe", metavar="NAME|FILE", help="`demo`, `small`, `paper`, or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; may be given more than once."),
]
WorkOption = Annotated[
    Path | None, typer.Option("--work", metavar="DIR", help="Where results go; default `build/<recipe>`.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
CatalogOption = Annotated[Path, typer.Option("--catalog", metavar="FILE", help="The catalog.yaml of the source.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Default: the recipe's first seed.")]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", min=1, metavar="N", help="Seeds 0 to N-1 instead of the recipe's.")
]
ResumeOption = Annotated[
    Literal["auto", "never"],
    typer.Option("--resume", help="`auto` continues an interrupted training from its last checkpoint."),
]


class Session:
    """What every step command has in common: recipe, work folder, terminal, and how to show a summary."""

    def __init__(self, recipe: str, set_: Sequence[str] | None, work: Path | None, quiet: bool, as_json: bool) -> None:
        self.recipe: Recipe = load_recipe(recipe, set_ or [])
        self.workspace = Workspace(work or Path("build") / self.recipe.name)
        self.terminal = Terminal(quiet or is_follower())
        self._as_json = as_json

    def begin(self, command: str, tracked: bool) -> None:
        """Say what starts (the libraries take seconds to load), check the tracking server, store the recipe."""
        self.terminal.say(f"{command}: recipe {self.recipe.name}, results in {self.workspace.root}; loading ...")
        if tracked and not self.recipe.tracking.untracked and not is_follower():
            from mlim.tracking import check_server

            check_server(self.recipe)
        self._store_recipe()
        if importlib.util.find_spec(f"mlim.steps.{command}"):
            with self.terminal.waiting("loading libraries"):
                importlib.import_module(f"mlim.steps.{command}")

    def _store_recipe(self) -> None:
        """Keep the complete recipe beside the results."""
        try:
            with atomic_file(self.workspace.recipe) as temporary:
                temporary.write_text(self.recipe.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--work {self.workspace.root}: results cannot be written there ({error.strerror}); choose another"
            ) from None

    def with_seeds(self, count: int | None) -> None:
        """Replace the recipe's seeds by 0 to `count` - 1, when a count is given."""
        if count is None:
            return
        self.recipe = self.recipe.model_copy(update={"seeds": tuple(range(count))})
        self._store_recipe()

    def seed(self, given: int | None) -> int:
        """The seed that was asked for, else the recipe's first."""
        return self.recipe.seeds[0] if given is None else given

    def show(self, summary: Mapping[str, Any], message: str) -> None:
        """The summary as JSON for machines, or a few words for a person."""
        if self._as_json:
            typer.echo(json.dumps(summary, indent=2, sort_keys=True))
        else:
            self.terminal.say(message)


_COMMON = {"recipe": RecipeOption, "set_": SetOption, "work": WorkOption, "quiet": QuietOption, "as_json": JsonOption}
_DEFAULTS: dict[str, Any] = {"recipe": "demo", "set_": None, "work": None, "quiet": False, "as_json": False}


def step(example: str, tracked: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of a `Session` a subcommand that also takes the options which all steps share.

    `tracked` steps need MLflow, unless the recipe says `tracking.uri: none`: whether it answers is checked before work.
    """

    def register(body: Callable[..., None]) -> Callable[..., None]:
        def command(**options: Any) -> None:
            shared = {name: options.pop(name) for name in _COMMON}
            session = Session(**shared)
            session.begin(body.__name__, tracked)
            body(session, **options)

        own = [parameter for name, parameter in inspect.signature(body).parameters.items() if name != "session"]
        common = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=_DEFAULTS[name])
            for name, kind in _COMMON.items()
        ]
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        command.__signature__ = inspect.Signature([*keyword, *common])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*keyword, *common)}
        command.__doc__ = body.__doc__
        app.command(name=body.__name__, epilog=f"Example: `{example}`")(command)
        return body

    return register


@app.command(epilog="Example: `mlim init catalog.csv`, edit catalog.yaml, `mlim run --catalog catalog.yaml`")
def init(
    table: Annotated[
        Path,
        typer.Argument(help="The table: CSV, TSV, JSON lines (also .gz) or Parquet; a file or a quoted pattern."),
    ],
    out: Annotated[Path | None, typer.Option(help="Default: catalog.yaml beside the table.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented catalog.yaml from what the table looks like."""
    from mlim.catalog.sources.table import fixed_parent
    from mlim.catalog.starter import starter_yaml

    target = out or fixed_parent(table) / "catalog.yaml"
    if target.exists() and not force:
        raise InputError(f"{target} exists already; choose another --out or add --force")
    text = starter_yaml(table, target.parent)
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    Terminal().say(f"wrote {target}: read its comments, mend the guesses, then `mlim run --catalog {target}`")


@catalog_app.command(epilog="Example: `mlim catalog synthesize` makes ./data, the catalog of the demo")
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder for table, pictures and catalog.yaml.")] = Path("data"),
    items: Annotated[int, typer.Option(min=100, help="How many items.")] = 2400,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    image_size: Annotated[int, typer.Option(min=32, help="Side of the pictures, pixels.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
    broken: Annotated[bool, typer.Option(help="Add a few broken rows, as every real catalog has.")] = True,
    quiet: QuietOption = False,
) -> None:
    """Draw the embedded catalog: studio photographs and attribute texts of an invented shop."""
    from mlim.catalog.synthetic import synthesize as draw
    from mlim.versions import commit_data

    terminal = Terminal(quiet)
    draw(out, items, seed, image_size, workers, terminal, broken)
    terminal.say(f"wrote {out / 'catalog.yaml'} and {items} items{commit_data(out)}")


@catalog_app.command(
    "show", epilog="Example: `mlim catalog show --catalog data/catalog.yaml --work build/demo --out sheet.html`"
)
def show_catalog(
    catalog: Annotated[
        Path | None,
        typer.Option("--catalog", metavar="FILE", help="Default: data/catalog.yaml, if it is there."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: contact.html in the work folder.")] = None,
    items: Annotated[int, typer.Option(min=1, help="How many items to sample.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other items, families and pairs.")] = 0,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
) -> None:
    """Look at a catalog before anything is trained on it: numbers here, a contact sheet as one HTML page."""
    from mlim.report.contact.gather import gather
    from mlim.report.contact.lines import describe
    from mlim.report.contact.page import write_page
    from mlim.report.contact.settings import settings_for

    chosen, terminal = load_recipe(recipe, set_ or []), Terminal(quiet)
    workspace = Workspace(work or Path("build") / chosen.name)
    source = catalog or (DEFAULT_CATALOG if DEFAULT_CATALOG.is_file() else None)
    with terminal.waiting("looking at the catalog"):
        look = gather(source, workspace, settings_for(chosen, items=items, seed=seed))
    for line in describe(look):
        typer.echo(line)
    summary = write_page(look, out or workspace.root / "contact.html")
    terminal.say(f"wrote {summary['page']}")


@catalog_app.command(epilog="Example: `mlim catalog fetch abo abo`, then catalogs/abo.yaml with MLIM_ABO=abo")
def fetch(
    name: Annotated[Literal["abo"], typer.Argument(help="`abo`: Amazon Berkeley Objects.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Will hold listings/ and images/.")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="Do not ask; you have read it.")] = False,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with another address, archives, checksums, timeouts.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A=B", help="Change one setting; may be given more than once.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Download and unpack a public catalog; an interrupted download goes on where it was."""
    from mlim.catalog.fetch import fetch_abo, load_download

    fetch_abo(out, load_download(settings, set_ or []), Terminal(quiet), accept_licence)


def _counts(quarantined: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(quarantined.items())) or "none"


@step("mlim ingest --catalog data/catalog.yaml --recipe demo", tracked=True)
def ingest(session: Session, catalog: CatalogOption = DEFAULT_CATALOG) -> None:
    """Read the source, decode and resize the pictures, write shards; bad rows go to quarantine."""
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


@step("mlim validate --set validation.min_image_side=200", tracked=True)
def validate(
    session: Session,
    catalog: CatalogOption = DEFAULT_CATALOG,
    accept: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Accept this data version in spite of its complaints, and say why."),
    ] = None,
) -> None:
    """Check the ingested items with Great Expectations; refused rows go to quarantine."""
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


@step("mlim pairs --set pairs.test_share=0.3", tracked=True)
def pairs(session: Session, catalog: CatalogOption = DEFAULT_CATALOG) -> None:
    """Split the items by family and picture, and make the pairs for fine-tuning and testing."""
    from mlim.steps.pairs import make_pairs as run_step
    from mlim.steps.recorded import record

    summary = run_step(session.recipe, catalog, session.workspace, session.terminal)
    record(session.recipe, session.workspace, "pairs", session.workspace.pairs)
    leaks = [entry["rule"] for entry in summary["leak_audit"] if entry["leaks"]]
    audit = f"these simple rules give the answer away: {', '.join(leaks)}" if leaks else "no simple rule gives it away"
    session.show(summary, f"wrote {session.workspace.pairs}; leak audit: {audit}")


@step("mlim pretrain recon-mlm-naive --recipe small --set pretrain.steps=100", tracked=True)
def pretrain(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="One of the recipe's `pretrainings`; default: the main row's.")] = (
        None
    ),
    seed: SeedOption = None,
    resume: ResumeOption = "auto",
    find_batch_size: Annotated[
        bool, typer.Option("--find-batch-size", help="Only try how many items fit into memory at a time.")
    ] = False,
) -> None:
    """Pre-train on the catalog's items.

    `--set tracking.uri=none` trains without MLflow, on a machine that lacks it; `mlim import-run` records it later.
    """
    from mlim.steps.pretrain import largest_batch
    from mlim.steps.pretrain import pretrain as run_step
    from mlim.training.launch import launch_if_wanted

    name = name or session.recipe.main_row.pretraining
    if name is None:
        raise InputError(f"the main row `{session.recipe.main}` has no pre-training; name one: mlim pretrain NAME")
    if find_batch_size:
        size = largest_batch(session.recipe, session.workspace, session.terminal, name, session.seed(seed))
        session.show({"batch_size": size}, f"the largest batch_size that fits into memory: {size}")
        return
    launch_if_wanted(session.recipe, session.recipe.pretrain.batch_size, sys.argv[1:])
    summary = run_step(session.recipe, session.workspace, session.terminal, name, session.seed(seed), resume)
    if not summary:  # another process of the same training tells
        return
    losses = ", ".join(f"{loss} {value:.4f}" for loss, value in summary["final"].items() if value is not None)
    session.show(summary, f"{name}: {summary['steps']} steps in {summary['seconds']:.0f} s, validation {losses}")


@step("mlim finetune no-mdo --recipe small --seed 1", tracked=True)
def finetune(
    session: Session,
    row: Annotated[str | None, typer.Argument(help="One of the recipe's `rows`; default: the main row.")] = None,
    seed: SeedOption = None,
    resume: ResumeOption = "auto",
) -> None:
    """Fine-tune on pairs: do these two items match?

    `--set tracking.uri=none` trains without MLflow, on a machine that lacks it; `mlim import-run` records it later.
    """
    from mlim.steps.finetune import finetune as run_step
    from mlim.training.launch import launch_if_wanted

    launch_if_wanted(session.recipe, session.recipe.finetune.batch_size, sys.argv[1:])
    row = row or session.recipe.main
    summary = run_step(session.recipe, session.workspace, session.terminal, row, session.seed(seed), resume)
    if summary:  # else another process of the same training tells
        session.show(summary, f"{row}: {summary['steps']} steps, validation PR-AUC {summary['validation_pr_auc']:.3f}")


@step("mlim evaluate --recipe small --json", tracked=True)
def evaluate(session: Session, seeds: SeedsOption = None) -> None:
    """PR-AUC of the main model with its interval, its threshold, and the baselines on the same pairs."""
    from mlim.steps.evaluate import evaluate as run_step

    session.with_seeds(seeds)
    summary = run_step(session.recipe, session.workspace, session.terminal)
    main_auc = summary["pr_auc"][session.recipe.main_row.modality]
    session.show(
        summary,
        f"PR-AUC {main_auc['value']:.3f} [{main_auc['low']:.3f}, {main_auc['high']:.3f}], "
        f"prevalence {summary['prevalence']:.3f}",
    )


@step("mlim ablate --grid table2 --recipe small --seeds 3 --catalog catalog.yaml", tracked=True)
def ablate(
    session: Session,
    seeds: SeedsOption = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="One experiment alone: table1, table2, figure2, design, mam, mdo, lr, size, search."
        ),
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ingest, validate and pair this catalog first, if need be.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings side by side; default: compute.side_by_side, or one for each CUDA device."),
    ] = None,
) -> None:
    """Tables 1 and 2: train every row that is not there yet, then compare all with a paired bootstrap."""
    from mlim.evaluation.evidence import Variant
    from mlim.steps.ablate import ablate as run_step
    from mlim.steps.cells import train_missing
    from mlim.steps.grid import describe_grid, run_grid

    session.with_seeds(seeds)
    if catalog is not None:
        _prepare(session, catalog)
    if grid is not None:
        summary = run_grid(session.recipe, session.workspace, session.terminal, grid, jobs)
        session.show(summary, describe_grid(summary))
        return
    train_missing([Variant(session.recipe, session.workspace)], session.terminal, jobs)
    summary = run_step(session.recipe, session.workspace, session.terminal)
    session.show(summary, _table(session.workspace))


def _prepare(session: Session, catalog: Path) -> None:
    """Ingest, validate and pair a catalog, unless the work folder has pairs of it; never those of another one."""
    if not session.workspace.pairs.is_dir():
        for command in (ingest, validate, pairs):
            command(session, catalog=catalog)
        return
    work, there = session.workspace.root, read_json(session.workspace.items / "summary.json")["catalog"]
    if Path(there).resolve() != catalog.resolve():
        raise InputError(f"--work {work}: holds the pairs of {there}, not of {catalog}; choose another folder")


@step("mlim probe --set probe.items=500", tracked=True)
def probe(session: Session) -> None:
    """Figure 2: what each modality gains from the other; reconstructions, nearest neighbours, attention."""
    from mlim.steps.probe import probe as run_step

    summary = run_step(session.recipe, session.workspace, session.terminal)
    session.show(summary, f"wrote {session.workspace.probe}")


@step("mlim report --recipe small --seeds 3 --results docs/results.md", tracked=True)
def report(
    session: Session,
    seeds: SeedsOption = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write all tracked results into this document, as `mlim results` does."),
    ] = None,
) -> None:
    """One self-contained HTML page with everything a person would ask."""
    from mlim.steps.report import report as run_step

    session.with_seeds(seeds)
    summary = run_step(session.recipe, session.workspace, session.terminal)
    if results is not None:
        from mlim.report.results import write_results

        write_results(session.recipe, results)
        session.terminal.say(f"wrote {results}")
    session.show(summary, f"wrote {session.workspace.report / 'index.html'}")


@step("mlim register --set tracking.model_name=shoes-matcher", tracked=True)
def register(session: Session) -> None:
    """Put the main model into the registry: challenger, and champion when it beats the present one."""
    from mlim.steps.register import register as run_step

    summary = run_step(session.recipe, session.workspace, session.terminal)
    session.show(summary, f"{summary['model']} version {summary['version']}: {summary['why']}")


@step("mlim run --catalog catalog.yaml --recipe small")
def run(
    session: Session,
    catalog: CatalogOption = DEFAULT_CATALOG,
    start: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="Keep the results of the stages before this one.")
    ] = "ingest",
) -> None:
    """Everything, from the catalog to the registry, through the Prefect flow (no server needed).

    Where params.yaml and data/ describe this very run, stages go through `dvc repro`, which skips what is up to date.
    """
    _check_before_work(session.recipe, catalog, session.workspace, start)
    session.terminal.say("starting the workflow engine (about ten seconds) ...")
    _run_pipeline(session.workspace, catalog, start, session.terminal.quiet)
    outcome = {
        name: read_json(folder / "summary.json")
        for name, folder in (("evaluate", session.workspace.evaluation), ("register", session.workspace.registration))
    }
    session.show(outcome, _closing_words(session, catalog))


def _check_before_work(recipe: Recipe, catalog: Path, workspace: Workspace, start: str) -> None:
    """Everything that can be known to be wrong before work starts, listed at once."""
    from mlim.steps.ingest import check_catalog
    from mlim.steps.plan import stages_from
    from mlim.tracking import check_server

    checks: Sequence[Callable[[], object]] = (
        lambda: stages_from(recipe, start),
        lambda: check_catalog(recipe, catalog, workspace),
        lambda: _check_start(recipe),
        lambda: check_server(recipe),
    )
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)


def _check_start(recipe: Recipe) -> None:
    if recipe.model.pretrained:  # torch takes seconds to load: not for a start that needs nothing
        from mlim.models.hub import find_start

        find_start(recipe.model.start)


def _run_pipeline(workspace: Workspace, catalog: Path, start: str, quiet: bool) -> None:
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the stages speak for themselves
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from flows.job import QUIET_VARIABLE
    from flows.pipeline import pipeline

    if quiet:
        os.environ[QUIET_VARIABLE] = "1"
    pipeline(recipe=str(workspace.recipe), catalog=str(catalog), work=str(workspace.root), start=start)


def _table(workspace: Workspace) -> str:
    from mlim.report.tables import short_table

    rows = short_table(workspace)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _closing_words(session: Session, catalog: Path) -> str:
    """The table, the report, and what to type next."""
    from mlim.tracking import shown, tracking_uri
    from mlim.versions import workspace_is_dvc

    known = shutil.which("mlim") == str(Path(sys.executable).parent / "mlim")
    activate = [] if known else [f"first:   . {Path(sys.executable).parent / 'activate'}"]
    again = "dvc repro" if workspace_is_dvc(session.recipe, catalog, session.workspace) else "mlim run ... --from STAGE"
    return "\n".join(
        [
            "",
            _table(session.workspace),
            "",
            f"report:  {(session.workspace.report / 'index.html').resolve()}",
            *activate,
            f"runs:    mlflow ui --backend-store-uri {shown(tracking_uri(session.recipe))} --workers 1",
            f"again:   {again}",
        ]
    )


@app.command("import-run", epilog="Example: `mlim import-run build/gpu`, carried home from a machine without MLflow")
def import_run(
    folder: Annotated[Path, typer.Argument(help="A work folder, or the folder of one training inside it.")],
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Record trainings in MLflow that ran with `tracking.uri: none`, as if they had been tracked there and then.

    What is recorded already stays as it is. The recipe is the folder's own recipe.yaml; where its `tracking.uri` is
    `none`, the runs go to MLFLOW_TRACKING_URI, else to sqlite:///mlflow.db in the current folder.
    """
    terminal = Terminal(quiet)
    terminal.say(f"import-run: {folder}; loading ...")
    from mlim.steps.import_run import import_run as run_step

    summary = run_step(folder, terminal)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, sort_keys=True))
        return
    new, known = len(summary["imported"]), len(summary["known"])
    there = f"{known} recorded there already" if known else ""
    terminal.say(
        f"{summary['store']}: " + ", ".join(filter(None, [f"{new} recorded" if new else "nothing to do", there]))
    )


@app.command(epilog="Example: `mlim results --out docs/results.md`")
def results(
    out: Annotated[Path, typer.Option(help="The Markdown file whose marked block is rewritten.")] = Path(
        "docs/results.md"
    ),
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
) -> None:
    """Write the results of the tracked runs into a document, so that no figure is typed by hand.

    Results of other recipes and catalogs that the document shows already stay: they lie as JSON beside it.
    """
    from mlim.report.results import write_results

    Terminal().say("reading the tracked runs ...")
    write_results(load_recipe(recipe, set_ or []), out)
    Terminal().say(f"wrote {out}")


@app.command(epilog="Example: `mlim doctor` after an installation, or when something is strange")
def doctor(recipe: RecipeOption = "demo", set_: SetOption = None, as_json: JsonOption = False) -> None:
    """What is installed, which devices there are, which servers answer, what is misconfigured."""
    from mlim.doctor import examine

    Terminal(quiet=as_json).say("looking at packages, devices and servers ...")
    findings = examine(load_recipe(recipe, set_ or []))
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.fine else 'BAD'}  {finding.subject:<18} {finding.detail}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(MlimError.exit_code)


def main() -> int:
    """Run the command line: 0 fine, 1 failed, 2 wrong usage or bad input. An error is one sentence per problem."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of what modality dropout does on purpose
    wait_briefly()
    if os.environ.get("MLIM_DIE_WITH_PARENT"):
        die_with_parent()
    try:
        app(prog_name="mlim")
    except MlimError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in DISK_TAKES_NO_MORE:
            raise
        print(f"error: {error}; make room on the disk and run the same command again", file=sys.stderr)
        return MlimError.exit_code
    return 0
