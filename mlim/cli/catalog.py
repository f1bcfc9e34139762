"""Catalogs to start from: `mlim catalog synthesize`, `show`, `fetch`, `build`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlim.cli.options import DEFAULT_CATALOG, QuietOption, RecipeOption, SetOption, WorkOption
from mlim.cli.session import chosen_recipe
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import check_replaceable
from mlim.workspace import Workspace

if TYPE_CHECKING:
    from mlim.recipe import Recipe
    from mlim.report.contact.reading import Reader

app = typer.Typer(no_args_is_help=True, help="Create, download or inspect a catalog.")


@app.command(epilog="Example: `mlim catalog synthesize` makes ./data, the catalog of the demo")
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder for the table, images and catalog.yaml.")] = Path("data"),
    kind: Annotated[
        Literal["items", "scenes"],
        typer.Option(help="`items`: a product per image, in families; `scenes`: several products, with annotations."),
    ] = "items",
    items: Annotated[int, typer.Option(min=100, help="Number of items or scenes.")] = 2400,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    image_size: Annotated[int, typer.Option(min=32, help="Side of the images in pixels.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
    broken: Annotated[bool, typer.Option(help="Add a few broken rows, as real catalogs have.")] = True,
    named_pattern: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the items whose title names the pattern.")
    ] = 0.0,
    task: Annotated[
        Literal["variant", "product"],
        typer.Option(help="Definition of a match: the same variant of a product, or the same product."),
    ] = "variant",
    annotations: Annotated[
        bool,
        typer.Option("--annotations", help="items: add boxes, captions, questions, statements."),
    ] = False,
    products: Annotated[int, typer.Option(min=2, max=32, help="scenes: number of different products.")] = 12,
    colours: Annotated[int, typer.Option(min=2, max=14, help="scenes: number of different colours.")] = 8,
    most: Annotated[int, typer.Option(min=1, max=9, help="scenes: products in one image, at most.")] = 3,
    crowded: Annotated[bool, typer.Option("--crowded", help="scenes: products overlap.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Generate the embedded catalog: rendered product photos and attribute texts of a synthetic shop."""
    from mlim.embedded.generate import synthesize as draw
    from mlim.embedded.scenes.facts import Difficulty
    from mlim.embedded.scenes.generate import synthesize_scenes
    from mlim.embedded.told import write_annotations
    from mlim.versions import commit_data

    terminal = Terminal(quiet)
    if kind == "scenes":
        difficulty = Difficulty(products, colours, most, crowded)
        synthesize_scenes(out, items, seed, image_size, workers, terminal, difficulty)
        terminal.say(f"wrote {out / 'catalog.yaml'} and {items} scenes with annotations{commit_data(out)}")
        return
    annotate = write_annotations if annotations else None
    draw(out, items, seed, image_size, workers, terminal, broken, named_pattern, task, annotate)
    terminal.say(f"wrote {out / 'catalog.yaml'} and {items} items{commit_data(out)}")


@app.command(
    "show", epilog="Example: `mlim catalog show --catalog data/catalog.yaml --work build/demo --out sheet.html`"
)
def show_catalog(
    catalog: Annotated[
        Path | None,
        typer.Option("--catalog", metavar="FILE", help="Default: data/catalog.yaml, if it exists."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: contact.html in the work folder.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Number of sampled items.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled items, families and pairs.")] = 0,
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    work: WorkOption = None,
    quiet: QuietOption = False,
) -> None:
    """Inspect a catalog before training: key figures, and a contact sheet as one HTML page."""
    from mlim.report.contact.gather import gather
    from mlim.report.contact.lines import describe
    from mlim.report.contact.page import SIGN, write_page
    from mlim.report.contact.reading import texts_of
    from mlim.report.contact.settings import settings_for

    chosen, terminal = chosen_recipe(recipe, set_), Terminal(quiet)
    workspace = Workspace(work or Path("build") / chosen.name)
    source = catalog or (DEFAULT_CATALOG if DEFAULT_CATALOG.is_file() else None)
    if out is not None:
        check_replaceable(out, SIGN)
    with terminal.waiting("looking at the catalog"):
        look = gather(source, workspace, settings_for(chosen.ingest, items=items, seed=seed))
        texts = texts_of(workspace) or (look.source.texts if look.source is not None else ())
        reader = _reader(chosen, texts, terminal)
    for line in describe(look):
        typer.echo(line)
    if out is None:
        from mlim.writer import claim_work

        claim_work(workspace)
    summary = write_page(look, out or workspace.root / "contact.html", reader)
    terminal.say(f"wrote {summary['page']}")


def _reader(recipe: "Recipe", texts: Sequence[str], terminal: Terminal) -> "Reader | None":
    """What tells how far the model reads into a text; None, with a warning, where its tokenizer is not there."""
    from mlim.report.contact.reading import make_reader
    from mlim.steps.tokenizing import tokenizer_for

    if not texts:
        return None
    try:
        return make_reader(texts, recipe.text, lambda them: tokenizer_for(recipe, them))
    except InputError as error:
        terminal.warn(f"texts are shown whole: {error}")
        return None


@app.command(epilog="Example: `mlim catalog fetch emoji emoji`, then catalogs/emoji.yaml with MLIM_EMOJI=emoji")
def fetch(
    name: Annotated[
        Literal["abo", "emoji"],
        typer.Argument(help="`abo`: Amazon Berkeley Objects; `emoji`: emoji of three vendors, downloaded with npm."),
    ],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the table or listings, and the images.")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="Accept the licence.")] = False,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="abo: YAML with addresses, archives, checksums, timeouts.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A=B", help="abo: change one setting; can be repeated."),
    ] = None,
    archives: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="emoji: the packages' .tgz files, instead of npm.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Download and unpack a public catalog; an interrupted download resumes."""
    if name == "emoji":
        from mlim.sources.emoji import fetch_emoji

        fetch_emoji(out, archives, Terminal(quiet))
        return
    from mlim.sources.fetch import fetch_abo, load_download

    fetch_abo(out, load_download(settings, set_ or []), Terminal(quiet), accept_licence)


@app.command(epilog="Example: `mlim catalog build hm-fashion --from DOWNLOAD --out fashion`")
def build(
    name: Annotated[
        Literal["hm-fashion"],
        typer.Argument(help="`hm-fashion`: H&M's articles, from the data of Kaggle's competition of 2022."),
    ],
    download: Annotated[
        Path,
        typer.Option("--from", metavar="DOWNLOAD", help="The folder (articles.csv and images/) or the zip."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for catalog.yaml, the table and the images.")],
    articles: Annotated[int, typer.Option(min=2, help="Approximate number; whole products are taken.")] = 11_800,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CSV with a column article_id: the articles to take.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Build a catalog from public data that you have downloaded; the download is not modified."""
    from mlim.sources.hm_fashion import build_hm_fashion

    terminal = Terminal(quiet)
    built = build_hm_fashion(download, out, terminal, articles, ids)
    left = f"{built.without_picture} articles of the download have no picture, {built.broken} a broken one"
    terminal.say(f"wrote {out / 'catalog.yaml'}: {built.articles} articles of {built.products} products; {left}")
