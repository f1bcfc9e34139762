"""A fitted stack as files: skops, which holds arrays and JSON and runs nothing when it is read, and safetensors.

skops names objects by their addresses in memory. They are numbered in the order in which they appear here, and the
archive carries no time, so that the same stack gives the same bytes and a registered model keeps its SHA-256.
"""

import io
import re
import shutil
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from mlim.errors import InputError
from mlim.pairs.learned import PairTrees, PairWords
from mlim.stacking.attributes import AttributeClassifiers
from mlim.stacking.combine import Combination
from mlim.stacking.features import LITE0, LiteFeatures
from mlim.stacking.parts import ColumnTrees, Parts
from mlim.stacking.stack import Stack

STACK_FILE: Final = "stack.skops"
FEATURES_FILE: Final = "stack-features.safetensors"  # the network behind `stack.features`, where one is read
SCHEMA: Final = "schema.json"
TRUSTED: Final = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
ADDRESS: Final = re.compile(r'(?<="__id__": )\d+|(?<=")\d+(?=\.(?:npy|npz)")')


def save_stack(folder: Path, stack: Stack) -> None:
    """Write the fitted parts and their combinations into `folder`, and the network whose features they read."""
    from skops import io as skops  # it loads all of scikit-learn, which a model without a stack does not need

    parts, columns, without_columns = stack.parts, stack.parts.columns, stack.without_columns
    values = {
        "vectors": parts.vectors,
        "texts": parts.classifiers.texts,
        "pictures": parts.classifiers.pictures,
        "attributes": parts.classifiers.by_name,
        "trees": parts.trees._asdict(),
        "words": parts.words._asdict(),
        "columns": None if columns is None else {"names": columns.names, "trees": columns.trees._asdict()},
        "combination": stack.combination._asdict(),
        "without_columns": None if without_columns is None else without_columns._asdict(),
        "features": None if stack.features is None else LITE0,
    }
    for vectorizer in (parts.vectors, parts.classifiers.texts[0], parts.words.counter):
        vars(vectorizer).pop("_stop_words_id", None)  # an address too, which scikit-learn only remembers
    (folder / STACK_FILE).write_bytes(_without_addresses(skops.dumps(values)))
    if stack.features is not None:
        stack.features.save(folder / FEATURES_FILE)


def copy_stack(source: Path, folder: Path) -> None:
    """Copy what `save_stack` wrote into `source` to another folder."""
    for name in (STACK_FILE, FEATURES_FILE):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)


def load_stack(folder: Path) -> Stack:
    """What `save_stack` wrote; `InputError` for a file that holds anything else, before any of it is built.

    A stack of a version that compared no columns scores as it did.
    """
    from skops import io as skops

    path = folder / STACK_FILE
    try:
        found: dict[str, Any] = skops.load(path, trusted=TRUSTED)
        classifiers = AttributeClassifiers(found["texts"], found["pictures"], found["attributes"])
        words, trees = PairWords(**found["words"]), PairTrees(**found["trees"])
        columns, without_columns = found.get("columns"), found.get("without_columns")
        of_columns = columns and ColumnTrees(columns["names"], PairTrees(**columns["trees"]))
        return Stack(
            Parts(found["vectors"], classifiers, trees, words, of_columns),
            Combination(**found["combination"]),
            without_columns and Combination(**without_columns),
            LiteFeatures.from_file(folder / FEATURES_FILE) if found.get("features") == LITE0 else None,
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} holds no stack that can be read ({type(error).__name__}); run `mlim stack`") from None


def _without_addresses(archive: bytes) -> bytes:
    """The same archive with objects numbered instead of named by their addresses, and without times."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match.group(), str(len(numbers)))

    made = io.BytesIO()
    with ZipFile(io.BytesIO(archive)) as before, ZipFile(made, "w", ZIP_DEFLATED) as after:
        schema = ADDRESS.sub(number, before.read(SCHEMA).decode())
        files = {name: before.read(name) for name in before.namelist() if name != SCHEMA}
        renamed = {f"{numbers[Path(name).stem]}{Path(name).suffix}": data for name, data in files.items()}
        for name, data in {SCHEMA: schema.encode(), **dict(sorted(renamed.items()))}.items():
            after.writestr(ZipInfo(name), data)
    return made.getvalue()
