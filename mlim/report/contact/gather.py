"""Everything the contact sheet shows, read from whatever there is so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mlim.catalog.row_log import ROW_LOG_FILE
from mlim.errors import InputError
from mlim.files import read_json
from mlim.ingest.freshness import changed_files
from mlim.report.contact.items import Place, ShownItem, read_places
from mlim.report.contact.measures import Measures, read_measures
from mlim.report.contact.pairs import PairsLook, read_pairs
from mlim.report.contact.quarantine import Reason, count_sources, quarantine_files, read_reasons, refused_folder
from mlim.report.contact.sampling import FamilyChoice, choose_families, sample_items
from mlim.report.contact.settings import ContactSettings
from mlim.report.contact.source import SourceLook, read_source
from mlim.workspace import Workspace

SUMMARY_FILE = "summary.json"
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class ShownFamily:
    """A chosen family with its members."""

    choice: FamilyChoice
    members: tuple[ShownItem, ...]


@dataclass(frozen=True)
class Look:
    """All that was found; None or empty where a step has not run. `row_log_lines` is -1 without a row log."""

    catalog: str
    settings: ContactSettings
    source: SourceLook | None
    ingest: Summary | None
    refused: Summary | None  # of the last ingest, where it refused the catalog
    row_log_lines: int
    validation: Summary | None
    reasons: tuple[Reason, ...]
    quarantined_by_source: Mapping[str, int]
    measures: Measures | None
    items: tuple[ShownItem, ...]
    families: tuple[ShownFamily, ...]
    pairs: PairsLook | None
    data_docs: Path | None
    outdated: bool  # validation and pairs are there, but of older items: they are left out
    changed: tuple[str, ...] = ()  # files of the catalog that are not as the last ingest read them

    @property
    def other_catalog(self) -> str:
        """The name of the catalog that the work folder's items came from, where it is not the given one; else empty."""
        catalog = (self.ingest or {}).get("catalog")
        name = _name(None, self.ingest) if catalog else self.catalog
        return "" if name == self.catalog else name

    @property
    def counted(self) -> Summary | None:
        """The counts of the last ingest, whether it went through or was refused."""
        return self.refused or self.ingest


def gather(catalog: Path | None, workspace: Workspace, settings: ContactSettings) -> Look:
    """Read the source at `catalog` (None: leave it out) and the results in the work folder.

    `InputError` when there is neither, or when something that is there cannot be read.
    """
    ingest, validation = _summary(workspace.items), _summary(workspace.valid)
    outdated = _is_older(validation, ingest)
    measures = read_measures(workspace, accepted=not outdated)
    refused = _summary(refused_folder(workspace))
    if catalog is None and measures is None and refused is None:
        raise InputError(f"{workspace.root}: holds no results to look at; name a catalog, or run `mlim ingest` first")
    cache = workspace.downloads.absolute()
    source = None if catalog is None else read_source(catalog, cache, settings, with_pictures=measures is None)
    items, families = _examples(workspace, measures, settings)
    quarantines = quarantine_files(workspace, with_validation=not outdated)
    row_log, data_docs = workspace.items / ROW_LOG_FILE, workspace.valid / "data_docs" / "index.html"
    return Look(
        catalog=_name(catalog, refused or ingest),
        settings=settings,
        source=source,
        ingest=ingest,
        refused=refused,
        row_log_lines=int(pq.read_metadata(row_log).num_rows) if row_log.is_file() else -1,
        validation=None if outdated else validation,
        reasons=read_reasons(quarantines, settings),
        quarantined_by_source=count_sources(quarantines),
        measures=measures,
        items=items,
        families=families,
        pairs=None if outdated else read_pairs(workspace, settings),
        data_docs=data_docs if data_docs.is_file() and not outdated else None,
        outdated=outdated,
        changed=() if catalog is None or source is None else tuple(_changed(ingest, source, catalog)),
    )


def _examples(
    workspace: Workspace, measures: Measures | None, settings: ContactSettings
) -> tuple[tuple[ShownItem, ...], tuple[ShownFamily, ...]]:
    """The sampled items and the chosen families, read in one go."""
    if measures is None:
        return (), ()
    sampled = measures.places(sample_items(measures, settings.items, settings.seed))
    choices = choose_families(measures, settings)
    members = [measures.places(choice.members) for choice in choices]
    wanted = [*sampled, *(place for places in members for place in places)]
    found = read_places(workspace.items, wanted)
    families = [ShownFamily(choice, _at(found, places)) for choice, places in zip(choices, members, strict=True)]
    return _at(found, sampled), tuple(families)


def _at(found: Mapping[Place, ShownItem], places: Sequence[Place]) -> tuple[ShownItem, ...]:
    return tuple(found[place] for place in places)


def _name(catalog: Path | None, ingest: Summary | None) -> str:
    """What the page calls the catalog: its file as it was named, never a machine's folders."""
    given = Path(str((ingest or {}).get("catalog", ""))) if catalog is None else catalog
    named = given.parent.name if given.stem == "catalog" else given.stem
    return named or given.stem or "catalog"


def _changed(ingest: Summary | None, source: SourceLook, catalog: Path) -> Sequence[str]:
    return changed_files(ingest or {}, source.description, catalog)


def _summary(folder: Path) -> Summary | None:
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    try:
        value: Summary = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the step that writes it again") from None
    return value


def _is_older(validation: Summary | None, ingest: Summary | None) -> bool:
    """Whether validation judged other items than those that are there now, as far as the summaries tell."""
    judged = (validation or {}).get("data_version")
    return judged is not None and judged != (ingest or {}).get("data_version")
