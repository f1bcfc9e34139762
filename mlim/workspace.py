"""Where each step's results lie inside one work folder (`--work DIR`): the only place that knows the names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folders of one pipeline. A step writes its own folder and reads those of the steps before it."""

    root: Path

    @property
    def items(self) -> Path:
        """`ingest`: part-*.arrow, manifest.json, ledger.parquet, quarantine.parquet, summary.json."""
        return self.root / "items"

    @property
    def shards(self) -> Path:
        """Finished shards by content; outside the results, so that a re-run makes only what changed."""
        return self.root / "shards"

    @property
    def downloads(self) -> Path:
        """Pictures that `ingest` fetched from the web, by content."""
        return self.root / "downloads"

    @property
    def cache(self) -> Path:
        """What training derives from items and texts (places, token ids) or fetches (shards); safe to delete."""
        return self.root / "cache"

    @property
    def valid(self) -> Path:
        """`validate`: index.parquet of accepted items, quarantine.parquet, summary.json, data_docs/."""
        return self.root / "valid"

    @property
    def pairs(self) -> Path:
        """`pairs`: items.parquet (id, component, split), pairs.parquet, summary.json."""
        return self.root / "pairs"

    def pretrained(self, name: str, seed: int) -> Path:
        """`pretrain`: model/, history.csv, summary.json of one pre-training."""
        return self.root / "pretrain" / cell(name, seed)

    def finetuned(self, row: str, seed: int) -> Path:
        """`finetune`: model/, history.csv, scores.parquet, summary.json of one row of the tables."""
        return self.root / "finetune" / cell(row, seed)

    def checkpoints(self, stage: str, name: str, seed: int) -> Path:
        """Checkpoints of a running training; outside the results, so that a re-run does not wipe them."""
        return self.root / "checkpoints" / stage / cell(name, seed)

    @property
    def grids(self) -> Path:
        """`ablate --grid NAME`: NAME.json."""
        return self.root / "grids"

    @property
    def variants(self) -> Path:
        """Work folders of variants of the recipe, which share items and pairs with this one."""
        return self.root / "variants"

    def variant(self, name: str) -> "Workspace":
        """The work folder of one variant."""
        return Workspace(self.variants / name)

    def watched(self, stage: str, name: str, seed: int) -> Path:
        """What a running training leaves to look at: reconstructions/step-*.png, trace.json.gz."""
        return self.root / "watch" / stage / cell(name, seed)

    @property
    def evaluation(self) -> Path:
        """`evaluate`: metrics.json, curve.csv, baselines.parquet, plots of the main model."""
        return self.root / "evaluation"

    @property
    def ablation(self) -> Path:
        """`ablate`: table.csv, metrics.json, summary.json."""
        return self.root / "ablation"

    @property
    def probe(self) -> Path:
        """`probe`: figure2a.csv, figure2b.csv, their plots, reconstructions.png."""
        return self.root / "probe"

    @property
    def report(self) -> Path:
        """`report`: index.html."""
        return self.root / "report"

    @property
    def registration(self) -> Path:
        """`register`: summary.json (model version, aliases, why)."""
        return self.root / "registration"

    @property
    def logs(self) -> Path:
        """Log files of the steps that a flow started."""
        return self.root / "logs"

    @property
    def pipeline(self) -> Path:
        """The file that names the parent tracking run of this work folder."""
        return self.root / "pipeline.json"

    @property
    def recipe(self) -> Path:
        """The resolved recipe of the last command, complete."""
        return self.root / "recipe.yaml"


def cell(name: str, seed: int) -> str:
    """The name of one cell of the grid: `recon-mlm-mam-s0`."""
    return f"{name}-s{seed}"
