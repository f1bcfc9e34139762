"""A command may do a part of its work by a recipe that it derives, as `match` ingests for its model."""

from mlim.files import read_json
from mlim.recipe import load_recipe
from mlim.workspace import Workspace
from mlim.writer import only_writer


def test_a_part_of_a_command_may_have_another_recipe(tmp_path):
    workspace, asked = Workspace(tmp_path / "work"), load_recipe("demo")
    derived = load_recipe("demo", ["validation.max_copied_share=1"])
    with only_writer(workspace, asked.record, "mlim match"):
        with only_writer(workspace, derived.record, "mlim ingest"):
            assert read_json(workspace.lock)["command"] == "mlim match"
        with only_writer(workspace, asked.record, "mlim validate"):
            pass
