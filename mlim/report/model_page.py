"""The page of a registered version in MLflow, in Markdown: what it is for, how good, on which data, how to use it."""

from collections.abc import Mapping
from typing import Any

from mlim.report.kit import formats
from mlim.report.usable import answer, reached

USE = """```python
import mlim

model = mlim.load("models:/{name}/{version}")
```

```sh
mlim serve --model models:/{name}/{version}
mlim score --model models:/{name}/{version} --pairs pairs.csv --out scores.csv
```"""


def version_page(
    name: str,
    version: str,
    metrics: Mapping[str, Any],
    judged: Mapping[str, Any],
    tags: Mapping[str, str],
    runs: Mapping[str, str],
    experiment: str,
) -> str:
    """The page of a version, from the evaluation, from what registration found, and from its tags.

    Links lead to its `runs` (id by stage) in `experiment` of the same MLflow.
    """
    links = [f"[{stage}](#/experiments/{experiment}/runs/{run})" for stage, run in sorted(runs.items())]
    against = [found["sentence"] for found in judged["objections"]]
    registered = metrics["registered"]
    interval = registered["pr_auc"]
    return "\n\n".join(
        [
            f"**{answer(metrics, against)}** Decides whether two items of a catalog, each a picture and a text, are "
            "closely matching.",
            *(f"- {sentence}" for sentence in against),
            "### How good",
            f"PR-AUC {formats.interval(interval['value'], interval['low'], interval['high'])} on "
            f"{formats.count(metrics['pairs'])} test pairs (chance {formats.score(metrics['prevalence'])}), scored by "
            f"the {registered['scorer']}. {reached(metrics)} Probabilities are off by "
            f"{judged['calibration_error']:.3f} on average.",
            f"Version {version}: {judged['why']}.",
            "### Data and code",
            f"Data version `{tags.get('mlim.data_version')}` (validation {tags.get('mlim.validation')}), recipe "
            f"`{tags.get('mlim.recipe')}`, commit `{tags.get('mlim.commit')}`. `mlim lineage models:/{name}/{version}` "
            f"says the rest. Runs: {', '.join(links)}.",
            "### Use",
            USE.format(name=name, version=version),
        ]
    )
