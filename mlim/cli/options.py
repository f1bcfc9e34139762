"""Options that several commands share: the same name means the same everywhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_CATALOG = Path("data/catalog.yaml")

Resume = Literal["auto", "never", "keep"]

RecipeOption = Annotated[
    str,
    typer.Option("--recipe", metavar="NAME|FILE", help="A name (`mlim recipe list`) or a YAML file."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; can be repeated."),
]
WorkOption = Annotated[
    Path | None, typer.Option("--work", metavar="DIR", help="Folder of the results; default `build/<recipe>`.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
CatalogOption = Annotated[Path, typer.Option("--catalog", metavar="FILE", help="The catalog.yaml.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Default: the recipe's first seed.")]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", min=1, metavar="N", help="Use seeds 0 to N-1 instead of the recipe's.")
]
ResumeOption = Annotated[
    Resume,
    typer.Option(
        "--resume",
        help="`auto` resumes an interrupted training from its last checkpoint; `keep` also keeps a finished one of the "
        "same settings, data and code.",
    ),
]
