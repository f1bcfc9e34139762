"""Fine-tuning to answer questions about a picture by choosing one of the answers of the train split."""

import pandas as pd

from mlim.annotations.tables import QUESTIONS, VOCABULARIES_FILE, QuestionRow, load_answers, load_questions
from mlim.data.asked import Asked
from mlim.losses import answer_loss
from mlim.recipe import AnswerConfig
from mlim.steps.asked import AskedExamples, AskedTuning, asked_data, require_all
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData
from mlim.steps.tuning import TuningInputs
from mlim.workspace import Workspace


def answer_tuning(given: TuningInputs) -> AskedTuning:
    """The answering of questions of one variant. `InputError` when a split has none that can be answered."""
    config, folder = given.recipe.tuning_of(given.variant), given.workspace.annotations
    if not isinstance(config, AnswerConfig):
        raise TypeError(f"{type(config).__name__} is about no questions")
    answers = load_answers(folder)[: config.answers]
    numbers = {answer: number for number, answer in enumerate(answers)}
    rows = {split: load_questions(folder, split) for split in (TRAIN, VALIDATION, TEST)}
    asked = {split: [asked_of(row, numbers) for row in found] for split, found in rows.items()}
    require_all(asked, QUESTIONS, given.workspace)
    examples = AskedExamples("answer", QUESTIONS, 1, answers, answer_loss, asked, lambda split: columns_of(rows[split]))
    return AskedTuning(given, config, examples, config.validation_questions)


def asked_of(row: QuestionRow, numbers: dict[str, int]) -> Asked:
    """A question with those of its answers that the network can give."""
    right = {numbers[answer]: score for answer, score in row.answers.items() if answer in numbers}
    return Asked(row.question_id, row.question, (row.id,), right)


def columns_of(rows: list[QuestionRow]) -> pd.DataFrame:
    """What scores.parquet says of these questions, whatever was answered."""
    return pd.DataFrame(rows, columns=list(QuestionRow._fields))[["question_id", "id", "kind", "template", "entailed"]]


def answer_data(data: TrainingData, workspace: Workspace) -> TrainingData:
    """The data, with the questions among what is hashed; `InputError` when there are none."""
    return asked_data(data, workspace, QUESTIONS, VOCABULARIES_FILE)
