"""Record what the reference implementations of COCO's metrics give for a few cases: tests/pinned/metrics.json.

    python -m venv /tmp/references && /tmp/references/bin/pip install pycocotools==2.0.11 pycocoevalcap==1.2
    /tmp/references/bin/python benchmarks/metric_references.py

Needs Java for the reference's tokenizer. pycocoevalcap takes 104 MB, so that the tests read its figures from the file.
"""

import contextlib
import io
import json
from pathlib import Path
from random import Random

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

TARGET = Path(__file__).resolve().parents[1] / "tests" / "pinned" / "metrics.json"
CAPTIONS = [
    ("A red mug.", ["A red mug on a table.", "One red mug, seen from the left", "a mug that is red"]),
    ("two striped bags and a blue lamp", ["A blue lamp beside two striped bags.", "two bags; one lamp"]),
    ("the the the the cup", ["The cup is on the shelf.", "a cup"]),
    ("It's a woman's t-shirt, isn't it?", ["A woman's T-shirt.", "it is a t-shirt for women"]),
    ("a 3.5 inch disk (black)", ["A black 3.5 inch disk", "Black disk - 3.5 inches"]),
    ("three green mugs", ["three green mugs"]),
    ("a very long caption about nothing that is in the picture at all", ["A yellow chair.", "chair"]),
    ("lamp", ["A tall lamp with a white shade stands on the floor", "a lamp with a shade"]),
]
PICTURES, CLASSES, SIDE = 12, 3, 200


def caption_figures() -> dict:
    """Tokens, and figures of the whole set and of each picture."""
    wrapped = [[{"caption": each} for each in (written, *references)] for written, references in CAPTIONS]
    tokens = PTBTokenizer().tokenize(dict(enumerate(wrapped)))
    written = {number: tokens[number][:1] for number in tokens}
    references = {number: tokens[number][1:] for number in tokens}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu = Bleu(4).compute_score(references, written)
    cider, rouge = (kind.compute_score(references, written) for kind in (Cider(), Rouge()))
    return {
        "captions": CAPTIONS,
        "tokens": [[each.split() for each in tokens[number]] for number in sorted(tokens)],
        "bleu4": float(bleu[0][3]),
        "cider": float(cider[0]),
        "cider_each": [float(each) for each in cider[1]],
        "rouge": float(rouge[0]),
        "rouge_each": [float(each) for each in rouge[1]],
    }


def drawn_pictures(random: Random) -> list:
    """Boxes as COCO writes them, in pictures with few and with crowded classes, and detections near and far."""
    pictures = []
    for _ in range(PICTURES):
        truths = [
            [*_box(random), random.randrange(CLASSES), int(random.random() < 0.1)] for _ in range(random.randrange(5))
        ]
        near = [
            [*_moved(truth[:4], random), truth[4], round(random.random(), 6)]
            for truth in truths
            if random.random() < 0.8
        ]
        far = [
            [*_box(random), random.randrange(CLASSES), round(random.random(), 6)] for _ in range(random.randrange(5))
        ]
        pictures.append({"truths": truths, "found": [*near, *far]})
    return pictures


def _box(random: Random) -> list:
    side = random.choice((16, 50, 120))
    corner = [random.uniform(0, SIDE - side) for _ in range(2)]
    return _rounded([*corner, *(side * random.uniform(0.7, 1.2) for _ in range(2))])


def _moved(box: list, random: Random) -> list:
    most = random.choice((0.02, 0.2)) * box[2]
    corner = [value + random.uniform(-most, most) for value in box[:2]]
    return _rounded([*corner, *(value * random.uniform(0.9, 1.1) for value in box[2:])])


def _rounded(values: list) -> list:
    return [round(value, 1) for value in values]


def detection_figures(pictures: list) -> list:
    """AP, AP50, AP75, and AP of small, medium and large boxes; -1 where there is nothing to find."""
    truth = COCO()
    truths = [(number, *each) for number, picture in enumerate(pictures) for each in picture["truths"]]
    truth.dataset = {
        "images": [{"id": number, "width": SIDE, "height": SIDE} for number in range(len(pictures))],
        "categories": [{"id": label} for label in range(CLASSES)],
        "annotations": [
            {
                "id": place,
                "image_id": number,
                "bbox": [*box],
                "category_id": label,
                "iscrowd": crowd,
                "area": box[2] * box[3],
            }
            for place, (number, *box, label, crowd) in enumerate(truths, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(
            [
                {"image_id": number, "bbox": [*box], "category_id": label, "score": score}
                for number, picture in enumerate(pictures)
                for *box, label, score in picture["found"]
            ]
        )
        judged = COCOeval(truth, found, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return [float(each) for each in judged.stats[:6]]


def main() -> None:
    """Write the file."""
    pictures = [drawn_pictures(Random(seed)) for seed in range(3)]
    detection = [{"pictures": each, "figures": detection_figures(each)} for each in pictures]
    TARGET.write_text(json.dumps({"captions": caption_figures(), "detection": detection}, indent=None) + "\n")


if __name__ == "__main__":
    main()
