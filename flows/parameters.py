"""The parameters that flows share, as the run form shows them: a title, a sentence and what can be chosen.

Prefect writes title and description of a parameter itself; what stands in `json_schema_extra` takes their place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect.context import FlowRunContext
from pydantic import Field, GetJsonSchemaHandler, NonNegativeInt
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from mlim.config import read_yaml
from mlim.errors import InputError
from mlim.recipe import recipe_names

BY_HAND = "by hand"  # why a run was started, when nobody says it
STARTS = (  # the commands of the plan, in its order
    "ingest",
    "validate",
    "pairs",
    "annotate",
    "regions",
    "pretrain",
    "finetune",
    "stack",
    "evaluate",
    "ablate",
    "probe",
    "register",
    "report",
    "match",
)


def shown(title: str, description: str) -> FieldInfo:
    """How the run form shows a parameter."""
    field: FieldInfo = Field(json_schema_extra={"title": title, "description": description})
    return field


class _Choices:
    """Of a text: what can be chosen. With `others`, any other text is fine too."""

    def __init__(self, names: Sequence[str], others: str | None = None) -> None:
        self._names, self._others = names, others

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        chosen = {"type": "string", "enum": list(self._names)}
        if self._others is None:
            return chosen
        return {"anyOf": [{**chosen, "title": "by name"}, {"type": "string", "title": self._others}]}


class _Titles:
    """What the form calls the alternatives of a parameter: a value, and none."""

    def __init__(self, value: str, none: str) -> None:
        self._titles = value, none

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        alternatives = handler(core)["anyOf"]
        return {"anyOf": [{**one, "title": title} for one, title in zip(alternatives, self._titles, strict=True)]}


RecipeName = Annotated[
    str,
    _Choices(recipe_names(), others="a file"),
    shown("Recipe", "A recipe of the package, or the path of a YAML file in the project's folder."),
]
CatalogFile = Annotated[
    str, shown("Catalog", "The catalog.yaml: its path in the project's folder, or an absolute one on the worker.")
]
WorkFolder = Annotated[
    str | None, _Titles("a folder", "build/NAME of the recipe"), shown("Work folder", "Where the results are written.")
]
Overrides = Annotated[
    Sequence[str],
    shown("Settings", "Values of the recipe that this run changes, as A.B=C: finetune.steps=200."),
]
Start = Annotated[str, _Choices(STARTS), shown("Start at", "Stages before this one keep their results and do not run.")]
Reason = Annotated[str, shown("Reason", "Why this run, in a few words; the run's name shows it.")]
ModelName = Annotated[
    str, shown("Model", "Version of the registry, as models:/NAME@ALIAS or models:/NAME/VERSION, or a work folder.")
]
MatchesFolder = Annotated[str, shown("Folder of matches", "Where groups, pairs and the page of matches are written.")]
Precision = Annotated[
    float | None,
    _Titles("a share", "the model's own threshold"),
    shown("Precision", "Share of right ones among the matches to promise, above 0, below 1."),
]
Recall = Annotated[
    float | None,
    _Titles("a share", "the model's own threshold"),
    shown("Recall", "Share of the true matches to find, above 0, below 1."),
]
SinceLast = Annotated[
    bool, shown("Since last time", "Score and group only what differs from the matches that the folder holds.")
]
Least = Annotated[NonNegativeInt, shown("Labels to wait for", "A training starts with so many new labels.")]


def run_name() -> str:
    """The name of the flow run that begins: its catalog, its recipe and why it was started."""
    context = FlowRunContext.get()
    given = (context.parameters if context is not None else None) or {}
    return describe_run(str(given["catalog"]), str(given["recipe"]), str(given["reason"]))


def describe_run(catalog: str, recipe: str, reason: str) -> str:
    """`data, demo, by hand`: a catalog is called like its folder, a recipe in a file as it calls itself."""
    file = Path(catalog)
    shop = file.stem if file.stem != "catalog" else file.absolute().parent.name
    return ", ".join((shop, _name_of(recipe), reason))


def _name_of(recipe: str) -> str:
    """Never an error: a recipe that cannot be read is rejected when the run begins."""
    if recipe in recipe_names():
        return recipe
    try:
        return str(read_yaml(Path(recipe)).get("name") or Path(recipe).stem)
    except InputError:
        return Path(recipe).stem
