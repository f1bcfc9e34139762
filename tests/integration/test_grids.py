"""Declared experiments: rows and variants, trained once, compared on equal terms."""

import pytest
from commands import finish, run, start

from mlim.errors import DataError, InputError
from mlim.evaluation.evidence import read_evidence
from mlim.files import read_json, write_json
from mlim.grids import grid_names, load_grid, rows_of, variant_of
from mlim.recipe import load_recipe
from mlim.report.gather import gather
from mlim.steps.grid import compare, run_grid

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("recipe", ["demo", "small"])
@pytest.mark.parametrize("name", grid_names())
def test_every_grid_fits_the_recipes_for_cpus(name, recipe):
    grid, chosen = load_grid(name), load_recipe(recipe)
    assert set(rows_of(chosen, grid).rows) == {chosen.main, *grid.rows}
    for variant, settings in grid.variants.items():
        changed = variant_of(chosen, variant, settings)
        assert list(changed.rows) == [chosen.main]
        assert changed != chosen


def test_an_unknown_grid_is_named():
    with pytest.raises(InputError, match=r"tabel2: no such grid.*table2"):
        load_grid("tabel2")


def test_a_grid_trains_rows_and_variants_and_goes_on_where_it_was(tiny_recipe, own_workspace, quiet):
    recipe = tiny_recipe.model_copy(update={"seeds": (0, 1)})
    summary = run_grid(recipe, own_workspace, quiet, "mdo")
    assert set(summary["rows"]) == {"recon-mlm-mam", "no-mdo", "mdo-lower", "mdo-higher"}
    assert summary["rows"]["recon-mlm-mam"]["minus_main"] is None
    for row in ("no-mdo", "mdo-lower"):
        found = summary["rows"][row]
        main = summary["rows"]["recon-mlm-mam"]["by_seed"]
        mean = sum(found["by_seed"][seed] - main[seed] for seed in ("0", "1")) / 2
        assert found["minus_main"]["low"] <= found["minus_main"]["value"] == pytest.approx(mean)
    trained = own_workspace.variant("mdo-lower").finetuned("recon-mlm-mam", 1) / "summary.json"
    before = trained.stat().st_mtime_ns
    assert run_grid(recipe, own_workspace, quiet, "mdo") == summary
    assert trained.stat().st_mtime_ns == before
    assert read_json(own_workspace.grids / "mdo.json") == summary


def test_a_variant_of_another_recipe_is_not_taken_for_this_one(tiny_recipe, own_workspace, quiet):
    run_grid(tiny_recipe, own_workspace, quiet, "mdo")
    longer = tiny_recipe.model_copy(update={"finetune": tiny_recipe.finetune.model_copy(update={"steps": 7})})
    with pytest.raises(InputError, match="mdo-lower holds a variant of another recipe"):
        run_grid(longer, own_workspace, quiet, "mdo")


def test_the_report_judges_what_a_grid_trained(tiny_recipe, own_workspace, quiet):
    run_grid(tiny_recipe, own_workspace, quiet, "mdo")
    evidence = gather(tiny_recipe, own_workspace).evidence
    assert {"mdo-lower", "mdo-higher", "no-mdo"} <= set(evidence.rows)


def test_unequal_budgets_are_never_compared(tiny_recipe, own_workspace, quiet):
    run_grid(tiny_recipe, own_workspace, quiet, "table1")
    path = own_workspace.finetuned("no-mdo", 0) / "summary.json"
    summary = read_json(path)
    write_json(path, {**summary, "pairs_seen": summary["pairs_seen"] + 1})
    with pytest.raises(DataError, match="another budget than `recon-mlm-mam`: no-mdo"):
        compare(tiny_recipe, read_evidence(tiny_recipe, own_workspace))


def test_one_command_from_the_work_folder(tiny_recipe, own_workspace):
    (own_workspace.root / "given.yaml").write_text(tiny_recipe.to_yaml(), encoding="utf-8")
    assert "What does each modality gain" in run(own_workspace, "ablate", "--grid", "figure2", "--seeds", "1")
    assert (own_workspace.probe / "summary.json").is_file()


def test_the_pairs_of_another_catalog_are_never_compared(tiny_recipe, own_workspace):
    (own_workspace.root / "given.yaml").write_text(tiny_recipe.to_yaml(), encoding="utf-8")
    code, said = finish(start(own_workspace, "ablate", "--grid", "table1", "--catalog", "other.yaml"))
    assert code == 2
    assert "holds the pairs of tiny, not of other.yaml; choose another folder" in said
