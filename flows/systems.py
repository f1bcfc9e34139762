"""Flow: several systems on the tasks of a catalog with annotations: answers, statements, captions, retrieval."""

from flows.factory import make_flow
from flows.pipeline import run_all

systems = make_flow(
    "systems",
    "Pre-train every system of a recipe, fine-tune it to its tasks, compare and report.",
    run_all,
    recipe="systems-demo",
    catalog="scenes/catalog.yaml",
)
