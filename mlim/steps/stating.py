"""Fine-tuning to say whether a statement about two pictures is true."""

from typing import Final

import pandas as pd

from mlim.annotations.tables import STATEMENTS, StatementRow, load_statements
from mlim.data.asked import Asked
from mlim.losses import statement_loss
from mlim.recipe import StatementConfig
from mlim.steps.asked import AskedExamples, AskedTuning, asked_data, require_all
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData
from mlim.steps.tuning import TuningInputs
from mlim.workspace import Workspace

CLASSES: Final = ("false", "true")


def statement_tuning(given: TuningInputs) -> AskedTuning:
    """The judging of statements of one variant. `InputError` when a split has none."""
    config = given.recipe.tuning_of(given.variant)
    if not isinstance(config, StatementConfig):
        raise TypeError(f"{type(config).__name__} is about no statements")
    rows = {split: load_statements(given.workspace.annotations, split) for split in (TRAIN, VALIDATION, TEST)}
    asked = {split: [_asked(row) for row in found] for split, found in rows.items()}
    require_all(asked, STATEMENTS, given.workspace)
    examples = AskedExamples(
        "statement", STATEMENTS, 2, CLASSES, statement_loss, asked, lambda split: _columns(rows[split])
    )
    return AskedTuning(given, config, examples, config.validation_statements)


def _asked(row: StatementRow) -> Asked:
    return Asked(row.statement_id, row.sentence, (row.left, row.right), {int(row.label): 1.0})


def _columns(rows: list[StatementRow]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(StatementRow._fields))[["statement_id", "left", "right", "set", "label"]]


def statement_data(data: TrainingData, workspace: Workspace) -> TrainingData:
    """The data, with the statements among what is hashed; `InputError` when there are none."""
    return asked_data(data, workspace, STATEMENTS)
