"""Batches from other processes: the same ones, in the same order, and a clean end whatever happens."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from mlim.data.collate import ItemCollator, Pair, PairCollator
from mlim.data.loader import BatchLoader
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import prepare_tokens
from mlim.data.workers import fetch_in_workers
from mlim.errors import DataError, MlimError
from mlim.files import read_json, sha256_of
from mlim.shards.items import ItemStore

pytestmark = pytest.mark.integration

PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def store(tiny_workspace):
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


@pytest.fixture(scope="module")
def collate(store, tiny_workspace):
    tokenizer = TextTokenizer.learn((store.text(item) for item in store.ids), 128)
    return ItemCollator(store, tokenizer, 12, prepare_tokens(store, tokenizer, tiny_workspace.cache))


def take(source: BatchLoader, count: int) -> list:
    batches = list(itertools.islice(source, count))
    source.close()
    return batches


def running() -> list[psutil.Process]:
    """Every process below this one; the forkserver and the resource tracker stay, idle, until the end."""
    return psutil.Process().children(recursive=True)


def forked() -> list[psutil.Process]:
    """The loader's processes: children of the forkserver."""
    return [process for process in running() if process.ppid() != os.getpid()]


def wait_until(condition) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing_but_the_process(store, collate, workers):
    through = take(BatchLoader(store.ids, 7, 0, collate), 14)
    found = take(BatchLoader(store.ids, 7, 0, collate, workers=workers), 14)
    assert [batch.ids for batch in found] == [batch.ids for batch in through]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(found, through, strict=True))
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(found, through, strict=True))


@pytest.mark.parametrize("workers", [1, 4])
def test_a_training_stops_and_continues_on_other_workers(store, collate, workers):
    pairs = [Pair(a, b, number % 2) for number, (a, b) in enumerate(zip(store.ids[:20], store.ids[20:], strict=True))]
    collate = PairCollator(collate.source, collate.tokenizer, 12, collate.tokens)
    through = take(BatchLoader(pairs, 3, 5, collate), 12)
    stopped = BatchLoader(pairs, 3, 5, collate, workers=workers, batches_ahead=3)
    first = list(itertools.islice(stopped, 5))
    state = stopped.state_dict()
    stopped.close()
    resumed = BatchLoader(pairs, 3, 5, collate, workers=2)
    resumed.load_state_dict(state)
    found = [*first, *take(resumed, 7)]
    assert [batch.ids for batch in found] == [batch.ids for batch in through]
    assert all(torch.equal(a.second.pixels, b.second.pixels) for a, b in zip(found, through, strict=True))


def test_ranks_with_workers_share_one_stream(store, collate):
    ranks = [take(BatchLoader(store.ids, 3, 0, collate, workers=1, rank=rank, world_size=2), 15) for rank in range(2)]
    found = [[*a.ids, *b.ids] for a, b in zip(*ranks, strict=True)]
    assert found == [batch.ids for batch in take(BatchLoader(store.ids, 6, 0, collate), 15)]


def test_closing_ends_the_processes(store, collate, shared_files):
    source = BatchLoader(store.ids, 4, 0, collate, workers=2)
    next(source)
    assert len(forked()) == 2
    source.close()
    wait_until(lambda: not forked())


def test_a_process_that_is_killed_is_an_error_that_says_what_to_do(store, collate, shared_files):
    source = BatchLoader(store.ids, 4, 0, collate, workers=2)
    next(source)
    forked()[0].kill()
    with pytest.raises(MlimError, match=r"a process that decodes pictures died .*loader\.workers"):
        take(source, 50)
    source.close()
    wait_until(lambda: not forked())


def of_growing_size(examples: Sequence[int]) -> tuple:
    """Tensors that are dense, turned, cut, without numbers and without axes."""
    size = 10 ** (examples[0] % 7)
    numbers = torch.arange(2 * size, dtype=torch.float64).reshape(2, -1)
    return numbers.T, numbers[:, ::2], torch.zeros(0, 3), torch.tensor(7, dtype=torch.int16), list(examples), None


def test_any_tensors_arrive_as_they_were(shared_files):
    for workers in (1, 3):
        found = take(BatchLoader(range(40), 3, 0, of_growing_size, workers=workers, batches_ahead=3), 40)
        expected = take(BatchLoader(range(40), 3, 0, of_growing_size), 40)
        for (*tensors, examples, nothing), (*others, same, _) in zip(found, expected, strict=True):
            assert (examples, nothing) == (same, None)
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tensors, others, strict=True))
            assert tensors[0].is_contiguous() == others[0].is_contiguous()


@pytest.fixture
def shared_files(tmp_path, monkeypatch):
    """Nothing of what the test shared is left."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr("mlim.data.workers.SHARED_FOLDER", shared)
    yield
    wait_until(lambda: not list(shared.iterdir()))


def test_a_batch_is_never_written_over_while_somebody_holds_it(store, collate):
    expected = take(BatchLoader(store.ids, 4, 0, collate), 40)
    source = BatchLoader(store.ids, 4, 0, collate, workers=2, batches_ahead=1)
    held = list(itertools.islice(source, 40))
    source.close()
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(held, expected, strict=True))


def test_parts_that_end_give_batches_that_end(shared_files):
    parts = [[1], [2, 3], [4]]
    assert list(fetch_in_workers(list, parts, workers=2, ahead=2)) == parts
    assert list(fetch_in_workers(list, [], workers=2, ahead=2)) == []


def test_large_parts_do_not_block_each_other():
    parts = [[number] * 500_000 for number in range(6)]
    assert [batch[0] for batch in fetch_in_workers(list, parts, workers=1, ahead=3)] == list(range(6))


FORGETS = """
import sys
from pathlib import Path
from mlim.data import workers
from mlim.data.loader import BatchLoader
if __name__ == "__main__":
    workers.SHARED_FOLDER = Path(sys.argv[1])
    loader = BatchLoader(range(9), 2, 0, list, workers=2)
    print(len(next(loader)))
"""


def test_a_program_that_forgets_to_close_ends_all_the_same(tmp_path, shared_files):
    (tmp_path / "forgets.py").write_text(FORGETS, encoding="utf-8")
    words = [sys.executable, str(tmp_path / "forgets.py"), str(tmp_path / "shared")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


def refuse(examples: Sequence[int]) -> list[int]:
    if 5 in examples:
        raise DataError("row 5 is not right; mend it")
    return list(examples)


def stumble(examples: Sequence[int]) -> list[int]:
    return [1 // example for example in examples]


def test_what_a_worker_finds_wrong_is_reported_as_it_was_said(shared_files):
    with pytest.raises(DataError, match=r"^row 5 is not right; mend it$"):
        take(BatchLoader(range(9), 2, 0, refuse, workers=2), 9)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError"):
        take(BatchLoader(range(9), 2, 0, stumble, workers=2), 9)
    assert not forked()


def test_ctrl_c_and_sigterm_leave_the_workers_to_their_training(store, collate):
    """Both reach the whole process group; the last step and the checkpoint still need batches."""
    source = BatchLoader(store.ids, 4, 0, collate, workers=2)
    assert len(list(itertools.islice(source, 4))) == 4  # both have started
    for process in running():
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    assert len(list(itertools.islice(source, 30))) == 30
    source.close()
    assert len(take(BatchLoader(store.ids, 4, 0, collate, workers=1), 3)) == 3


def command(workspace, workers: int, *words: str) -> list[str]:
    place = ["--recipe", str(workspace.root / "given.yaml"), "--work", str(workspace.root)]
    return [
        sys.executable,
        "-W",
        "error::UserWarning",
        "-m",
        "mlim",
        *words,
        *place,
        "--set",
        f"loader.workers={workers}",
    ]


def given(workspace, recipe) -> None:
    (workspace.root / "given.yaml").write_text(recipe.to_yaml(), encoding="utf-8")


def test_trainings_with_threads_and_with_workers_give_the_same_model(tiny_recipe, own_workspace):
    given(own_workspace, tiny_recipe)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    results = []
    for workers in (0, 2):
        done = subprocess.run(
            command(own_workspace, workers, "pretrain", "recon-mlm-mam"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert "Warning" not in done.stdout  # of Python; ours say what a short training does not beat
        assert "Traceback" not in done.stdout
        folder: Path = own_workspace.pretrained("recon-mlm-mam", 0)
        results.append((sha256_of(folder / "model" / "model.safetensors"), read_json(folder / "summary.json")["final"]))
    assert results[0] == results[1]


def test_a_training_that_is_killed_takes_its_workers_along(tiny_recipe, own_workspace, shared_files):
    longer = tiny_recipe.pretrain.model_copy(update={"steps": 100_000, "validate_every": 100_000})
    given(own_workspace, tiny_recipe.model_copy(update={"pretrain": longer}))
    training = psutil.Popen(command(own_workspace, 2, "pretrain", "recon-mlm-mam"), stdout=subprocess.DEVNULL)
    checkpoints = own_workspace.checkpoints("pretrain", "recon-mlm-mam", 0)
    wait_until(lambda: list(checkpoints.glob("step-*")))
    below = training.children(recursive=True)
    assert len(below) >= 3
    training.kill()
    training.wait()
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    assert not alive
