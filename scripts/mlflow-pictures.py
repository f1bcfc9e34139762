"""Draw the pictures of docs/operations.md: MLflow's pages of a project's runs, photographed in headless Chromium.

    python scripts/mlflow-pictures.py PROJECT docs/images

PROJECT is a folder in which `mlim run` has ended. Writes mlflow-pipeline.png and
mlflow-model.png.
"""

import argparse
import sys
from pathlib import Path

from chromium import require_browser
from pages import photograph, serving

from mlim.recipe.tracking import TrackingConfig
from mlim.tracking import all_runs, client

WIDTH, ASSISTANT = 1584, 384  # MLflow opens a panel of an assistant, which is cut off
HEIGHTS = {"pipeline": 1490, "model": 600}


def main() -> int:
    """Photograph the pages; 2 when there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    options = parser.parse_args()
    browser = require_browser()
    root = str(Path(__file__).parents[1])
    command = ("mlim", "ui", "--port")
    with serving(
        lambda port: (*command, str(port)), "health", lambda address: {"PYTHONPATH": root}, options.project
    ) as address:
        for name, place in _places(options.project).items():
            size = (WIDTH, HEIGHTS[name])
            photograph(browser, f"{address}/{place}", options.out / f"mlflow-{name}.png", size, cut=ASSISTANT)
    return 0


def _places(project: Path) -> dict[str, str]:
    """The latest pipeline's page and that of the registered model."""
    tracking = TrackingConfig(uri=f"sqlite:///{project.absolute() / 'mlflow.db'}")
    store = client(tracking)
    experiment = store.get_experiment_by_name(tracking.experiment).experiment_id
    pipeline = next(all_runs(store, [experiment], "tags.`mlim.stage` = 'pipeline'")).info.run_id
    return {
        "pipeline": f"#/experiments/{experiment}/runs/{pipeline}",
        "model": f"#/models/{tracking.model_name}",
    }


if __name__ == "__main__":
    sys.exit(main())
