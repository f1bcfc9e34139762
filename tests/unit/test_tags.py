"""What runs are tagged with: system, task, and what was seen beside texts and pictures."""

import pytest

from mlim.recipe import Recipe, load_recipe
from mlim.steps.tags import tag_training
from tests import decoder_recipe


class Tags(dict[str, str]):
    """Where a run's tags come to."""

    def tag(self, key: str, value: object) -> None:
        self[key] = str(value)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", decoder_recipe.SETTINGS)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("pretrainings", "recon-mlm-mam", ("mlim", "mlm, recon", "nothing")),
        ("pretrainings", "detector", ("e2e-vlp", "detect", "boxes, attributes")),
        ("pretrainings", "e2e-vlp", ("e2e-vlp", "mlm, itm, detect, caption", "boxes, attributes")),
        ("variants", "no-pretraining", ("mlim", "match", "nothing")),
        ("variants", "git-caption", ("git", "caption", "nothing")),
        ("variants", "lxmert", ("lxmert", "match", "boxes, questions")),
    ],
)
def test_a_run_says_its_system_its_task_and_what_it_saw(
    recipe: Recipe, kind: str, name: str, expected: tuple[str, ...]
) -> None:
    tags = Tags()
    tag_training(tags, recipe, getattr(recipe, kind)[name])  # type: ignore[arg-type]
    assert tuple(tags[f"mlim.{key}"] for key in ("system", "task", "also_saw")) == expected
