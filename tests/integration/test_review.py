"""`mlim review`: a real server, its page in a real browser, and its answers as labels for `mlim pairs`."""

import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
import yaml

from mlim.files import read_json, write_csv, write_json
from mlim.pairs.answers import Answer, AnswerTable
from mlim.workspace import Workspace
from scripts.chromium import rendered
from tests.commands import ENVIRONMENT
from tests.commands import call as mlim
from tests.small_catalog import described

pytestmark = pytest.mark.integration

MODEL = "f" * 64


@pytest.fixture
def work(own_workspace: Workspace) -> Workspace:
    """The tiny items, scored as `mlim match` leaves them: all pairs of families, more doubtful from pair to pair."""
    pairs = pd.read_parquet(own_workspace.pairs / "pairs.parquet")[["item_a", "item_b"]]
    chances = 1 - 0.5 * pairs.index / (len(pairs) - 1)
    own_workspace.scores.mkdir()
    pairs.assign(score=chances, probability=chances).to_parquet(own_workspace.scores / "scores.parquet")
    write_json(own_workspace.scores / "summary.json", {"model": MODEL})
    own_workspace.groups.mkdir()
    first = pairs.iloc[0].to_dict()
    conflict = {**first, "score": 1.0, "reason": "the group would be too large"}
    write_csv(own_workspace.groups / "conflicts.csv", [conflict], ["item_a", "item_b", "score", "reason"])
    return own_workspace


class Review:
    """A running `mlim review`."""

    def __init__(self, work: Workspace, *words: str) -> None:
        command = [sys.executable, "-m", "mlim", "review", "--work", str(work.root), *words]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stderr is not None
        said = next(line for line in self.process.stderr if "http://" in line)
        self.address = re.search(r"http://\S+", said)[0]
        parts = urlsplit(self.address)
        self.port, self.path = parts.port, parts.path

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """Status and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = None if body is None else json.dumps(body)
        connection.request(
            "GET" if body is None else "POST", path, content, {"Content-Type": "application/json"} | headers
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        return self.process.returncode


def labelled_catalog(folder: Path) -> Path:
    """A description of the tiny items whose labels are those of labels.csv."""
    path = folder / "catalog.yaml"
    (folder / "catalog.csv").write_text("sku,picture,product,title,colour,pattern\n")
    path.write_text(yaml.safe_dump(described(pairs={"labelled": "labels.csv"})))
    return path


def test_a_pair_that_is_answered_on_the_page_is_a_label(work, tmp_path, monkeypatch):
    labels = AnswerTable(tmp_path / "labels.csv")
    given = pd.read_parquet(work.pairs / "pairs.parquet").iloc[1:-1]
    others = [Answer(row.item_a, row.item_b, str(row.label), "bob", "2026-01-01") for row in given.itertuples()]
    labels.add(others)
    review = Review(work, "--labels", str(labels.path), "--by", "anna")
    try:
        status, page = review.ask(review.path)
        assert (status, page.count('<article class="pair"')) == (200, 2)  # all others have an answer
        assert page.index("the group would be too large") < page.index("in doubt")
        assert review.ask("/")[0] == 403
        assert review.ask("/guessed/answers", {"pair": 0, "label": "1"})[0] == 403
        assert review.ask(review.path, Host="evil.example")[0] == 400
        assert review.ask(f"{review.path}answers", {"pair": 0, "label": "1"}, Origin="http://evil.example")[0] == 403
        assert len(labels.read()) == len(others)
        status, state = review.ask(f"{review.path}answers", {"pair": 0, "label": "1"})
        assert (status, json.loads(state)["answers"]) == (200, {"0": "1"})
    finally:
        code = review.end()
    assert code == 0
    stored = labels.read()[-1]
    assert (stored.pair, stored.label, stored.by, stored.model) == (("item-000", "item-001"), "1", "anna", MODEL)
    assert float(stored.score) == 1
    labels.add(
        [Answer("item-000", "item-002", "unsure", "carla", "2026-01-01"), Answer(*stored.pair, "unsure", "x", "")]
    )
    catalog = labelled_catalog(tmp_path)
    assert mlim(monkeypatch, "pairs", "--catalog", str(catalog), "--work", str(work.root), "--quiet") == 0
    pairs = pd.read_parquet(work.pairs / "pairs.parquet")
    assert ("item-000", "item-001", 1) in set(pairs[["item_a", "item_b", "label"]].itertuples(index=False, name=None))
    assert read_json(work.pairs / "summary.json")["skipped"]["contradicting answers"] == 0


def test_a_file_is_answered_in_a_browser_and_imported(work, tmp_path, monkeypatch, browser, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["review", "--work", str(work.root), "--quiet"]
    assert mlim(monkeypatch, *words, "--out", "review.html", "--pairs", "5", "--json", "--by", "carla") == 0
    assert json.loads(capsys.readouterr().out)["queue"] == 5
    page = Path("review.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    # the page's own script is allowed by its hash; the test's stands in another document, around it
    frame = """<iframe src="review.html" width="1000" height="800"></iframe><pre></pre><script>onload = async () => {
      const page = document.querySelector("iframe").contentWindow, found = [];
      page.URL.createObjectURL = (blob) => { found.push(blob.text()); return "#"; };
      page.HTMLAnchorElement.prototype.click = () => {};  // a headless browser would wait for the download
      for (const key of "mduznds") {
        page.document.dispatchEvent(new page.KeyboardEvent("keydown", { key, bubbles: true }));
        await new Promise((done) => setTimeout(done, 50));
      }
      document.querySelector("pre").textContent = await found[0];
      document.title = page.document.getElementById("status").textContent;
    }</script>"""
    Path("frame.html").write_text(frame)
    shown = rendered(browser, Path("frame.html").resolve().as_uri(), "--allow-file-access-from-files")
    assert "3 answered: 1 match, 2 differ, 0 unsure" in shown
    Path("answers.json").write_text(re.search(r"<pre>(.*?)</pre>", shown, re.DOTALL)[1])
    assert mlim(monkeypatch, *words, "--import", "answers.json") == 0
    answers = AnswerTable(Path("labels.csv")).read()
    assert [(one.label, one.by, one.model) for one in answers] == [(label, "carla", MODEL) for label in ("1", "0", "0")]
    assert mlim(monkeypatch, *words, "--out", "again.html", "--pairs", "2000") == 0
    again = Path("again.html").read_text()
    assert not any(f'data-a="{one.item_a}" data-b="{one.item_b}"' in again for one in answers)
