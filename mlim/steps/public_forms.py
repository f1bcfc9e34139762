"""What a fine-tuned variant says of the test split, in the files that public data sets are judged by."""

import json
from pathlib import Path
from typing import assert_never

import pandas as pd

from mlim.annotations.names import coco_number
from mlim.evaluation.detections import coco_forms
from mlim.evaluation.scores import part
from mlim.recipe.tasks import FinetuneTask
from mlim.steps.trained import TEST

CocoNumber = int | str


def write_public_forms(folder: Path, task: FinetuneTask, scores: pd.DataFrame) -> None:
    """The forms of COCO (captions, detection), VQA v2, GQA and NLVR2; matching and retrieval have none."""
    for name, text in _forms(task, part(scores, split=TEST)).items():
        (folder / name).write_text(text, encoding="utf-8")


def _forms(task: FinetuneTask, scores: pd.DataFrame) -> dict[str, str]:
    """Texts by the names of their files."""
    match task:
        case "match" | "retrieval":
            return {}
        case "caption":
            rows = zip(scores["id"], scores["written"], strict=True)
            return {
                "coco_captions.json": json.dumps([{"image_id": _picture(one), "caption": text} for one, text in rows])
            }
        case "answer":
            answers = list(zip(scores["question_id"], scores["given"], strict=True))
            vqa = [{"question_id": _number(one), "answer": text} for one, text in answers]
            gqa = [{"questionId": str(one), "prediction": text} for one, text in answers]
            return {"vqa_results.json": json.dumps(vqa), "gqa_predictions.json": json.dumps(gqa)}
        case "statement":
            rows = zip(scores["statement_id"], scores["given"], strict=True)
            return {"nlvr2_predictions.csv": "".join(f"{one},{text.capitalize()}\n" for one, text in rows)}
        case "detect":
            truth, results = coco_forms(scores)
            return {"coco_instances.json": json.dumps(truth), "coco_results.json": json.dumps(results)}
        case _:
            assert_never(task)


def _picture(item: str) -> CocoNumber:
    """The number of a picture in COCO; of another one what its item is called."""
    number = coco_number(item)
    return _number(item) if number is None else number


def _number(name: str) -> CocoNumber:
    """A number where the name is one, as the data sets have it."""
    return int(name) if name.isdecimal() else name
