"""`mlim run --only main`: what a shop runs, without the variants that only compare."""

import pytest

from mlim.cli.run import _main_alone
from mlim.recipe import load_recipe


@pytest.mark.parametrize("changed", [None, ["main=no-pretraining"], ["seeds=[3]", "name=shop"]])
def test_the_main_variant_alone_is_trained_as_it_is_beside_the_others(changed):
    whole = load_recipe("small", changed or [])
    alone = load_recipe("small", [*(changed or []), *_main_alone("small", changed)])
    assert list(alone.variants) == [whole.main]
    assert alone.name == f"{whole.name}-main"
    assert alone.seeds == whole.seeds
    assert alone.training_key("finetune", alone.main) == whole.training_key("finetune", whole.main)
