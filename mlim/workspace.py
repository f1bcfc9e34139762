"""Where each step's results lie inside one work folder (`--work DIR`): the only place that knows the names."""

from dataclasses import dataclass
from pathlib import Path

INDEX_FILE = "index.parquet"  # of `validate`: the accepted items
DECISION_PAGE = "decision.md"  # of `register`: whether the version is champion, and why


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
    def annotations(self) -> Path:
        """`annotate`: regions, captions, questions and statements (.arrow), vocabularies.json, summary.json."""
        return self.root / "annotations"

    @property
    def annotation_docs(self) -> Path:
        """The Data Docs of `annotate`, which carry the time: beside its results, which are the same every time."""
        return self.root / "annotations.docs"

    @property
    def region_sources(self) -> Path:
        """Regions of all sources, a folder each (`regions`)."""
        return self.root / "regions"

    def regions(self, source: str) -> Path:
        """`regions`: features, boxes, labels, attributes and scores (.npy), offsets.npy, summary.json of a source.

        The files of whatever name that `tsv:FILE` gives are one source.
        """
        kind, _, name = source.partition(":")
        return self.region_sources / (kind if kind == "tsv" or not name else f"{kind}-{name}")

    @property
    def pairs(self) -> Path:
        """`pairs`: items.parquet (id, component, split), pairs.parquet, summary.json."""
        return self.root / "pairs"

    @property
    def indexes(self) -> Path:
        """Indexes of vectors by name, and the encoder of texts; kept from run to run, safe to delete."""
        return self.root / "indexes"

    @property
    def candidates(self) -> Path:
        """`candidates`: candidates.parquet (item_a, item_b, found_by, rank), summary.json."""
        return self.root / "candidates"

    @property
    def scores(self) -> Path:
        """`match`: scores.parquet, the candidates with their scores, summary.json."""
        return self.root / "scores"

    @property
    def groups(self) -> Path:
        """`group`: groups.parquet and .csv (item, group, role, size), conflicts.csv, summary.json; events."""
        return self.root / "groups"

    @property
    def completions(self) -> Path:
        """`complete`: of each attribute a folder with cells and contradictions (.parquet, .csv), summary.json."""
        return self.root / "completions"

    @property
    def simulated_review(self) -> Path:
        """The benchmark of `mlim review`: summary.json, how many labels its queue saves."""
        return self.root / "simulated-review"

    def pretrained(self, name: str, seed: int | str) -> Path:
        """`pretrain`: model/, history.csv, summary.json of one pre-training."""
        return self.root / "pretrain" / run_name(name, seed)

    def finetuned(self, variant: str, seed: int | str, again: int = 0) -> Path:
        """`finetune`: model/, history.csv, scores.parquet, summary.json of one variant."""
        return self.root / "finetune" / run_name(variant, seed, again)

    def checkpoints(self, stage: str, name: str, seed: int, again: int = 0) -> Path:
        """Checkpoints of a running training; outside the results, so that a re-run does not wipe them."""
        return self.root / "checkpoints" / stage / run_name(name, seed, again)

    @property
    def experiments(self) -> Path:
        """`ablate --experiment NAME`: NAME.json."""
        return self.root / "experiments"

    @property
    def experiment_runs(self) -> Path:
        """Work folders of the runs of experiments, which share items and pairs with this one.

        The folder keeps the name that earlier versions gave it, so that their trainings are found.
        """
        return self.root / "variants"

    def experiment_run(self, name: str) -> "Workspace":
        """The work folder of one run of an experiment."""
        return Workspace(self.experiment_runs / name)

    def samples(self, stage: str, name: str, seed: int, again: int = 0) -> Path:
        """What a running training leaves to look at: reconstructions/step-*.png, trace.json.gz."""
        return self.root / "samples" / stage / run_name(name, seed, again)

    def earlier_samples(self, stage: str, name: str, seed: int, again: int = 0) -> Path:
        """Where earlier versions left the same."""
        return self.root / "watch" / stage / run_name(name, seed, again)

    @property
    def outboxes(self) -> Path:
        """What MLflow has not taken yet, one folder for each run; empty unless its server was away."""
        return self.root / "outboxes"

    @property
    def stack(self) -> Path:
        """`stack`: baselines.parquet, scores.parquet of every scorer, the registered one's files."""
        return self.root / "stack"

    @property
    def evaluation(self) -> Path:
        """`evaluate`: summary.json, its main figures (metrics.json), curve.csv, plots of the main model."""
        return self.root / "evaluation"

    @property
    def ablation(self) -> Path:
        """`ablate`: table.csv, losses of all trainings, metrics.json (a figure for each variant), summary.json."""
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
    def matches(self) -> Path:
        """`match` as a stage of the pipeline: groups, pairs and rejected rows, matches.html, summary.json."""
        return self.root / "matches"

    @property
    def registration(self) -> Path:
        """`register`: summary.json (model version, aliases, why), decision.json and .md, cards, lineage/."""
        return self.root / "registration"

    @property
    def gate_decision(self) -> Path:
        """What the quality gate found at registration, and about which model."""
        return self.registration / "gate.json"

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
        """The complete recipe that the results were made with, as the last command that made any had it."""
        return self.root / "recipe.yaml"

    @property
    def recipes(self) -> Path:
        """The recipes of runs, by content: what a run was started with stays what its stages read."""
        return self.root / "recipes"

    @property
    def lock(self) -> Path:
        """The lock of the one command that writes, with its name in it."""
        return self.root / ".writer.lock"


def run_name(name: str, seed: int | str, again: int = 0) -> str:
    """The name of one training: `recon-mlm-mam-s0`; of its further fine-tunings `recon-mlm-mam-s0.1`, ..."""
    return f"{name}-s{seed}.{again}" if again else f"{name}-s{seed}"
