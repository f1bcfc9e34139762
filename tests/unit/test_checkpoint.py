"""Checkpoints: what is written comes back, what is damaged is not used, what cannot be written harms nothing."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mlim.console import Terminal
from mlim.errors import InputError, MlimError
from mlim.files import MARKER, claim
from mlim.models.weights import named_tensors
from mlim.training import checkpoint
from mlim.training.checkpoint import (
    Checkpoints,
    Saved,
    Snapshot,
    fingerprint_of,
    load_optimizer_tensors,
    only_trainer,
    optimizer_like,
    optimizer_tensors,
    remove_unfinished,
    require_same,
)


class Heard(Terminal):
    """Keeps what it says."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path) -> None:
    """Checkpoints lie in a work folder, which is mlim's own."""
    claim(tmp_path, str(tmp_path))


def checkpoints(folder: Path, fingerprint: str = "mine", keep: int = 2, terminal: Terminal | None = None):
    return Checkpoints(folder, fingerprint, keep, terminal or Terminal(quiet=True))


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"model": {"weight": torch.full((3,), float(step))}}, {"history": [{"step": step}]})


def weight_of(saved: Saved) -> torch.Tensor:
    weight = torch.zeros(3)
    saved.read({"model": {"weight": weight}})
    return weight


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MARKER)


def test_the_newest_comes_back_and_only_the_last_ones_stay(tmp_path):
    saved = checkpoints(tmp_path)
    for step in (5, 10, 15):
        saved.save(snapshot(step))
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    found = checkpoints(tmp_path).newest()
    assert found is not None
    assert found.step == 15
    assert weight_of(found).tolist() == [15.0] * 3
    assert found.state["history"] == [{"step": 15}]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [_cut, _flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_damaged_newest_is_said_and_the_one_before_is_used(tmp_path, harm, name):
    saved = checkpoints(tmp_path)
    saved.save(snapshot(5))
    harm(saved.save(snapshot(10)) / name)
    heard = Heard()
    found = checkpoints(tmp_path, terminal=heard).newest()
    assert found is not None
    assert found.step == 5
    assert "step-00000010" in heard.warnings[0]


def test_checkpoints_of_another_training_are_never_continued(tmp_path):
    checkpoints(tmp_path).save(snapshot(5))
    heard = Heard()
    assert checkpoints(tmp_path, "another", terminal=heard).newest() is None
    assert "starting anew" in heard.warnings[0]
    assert not tmp_path.exists()


def test_nothing_there_means_a_new_start(tmp_path):
    assert checkpoints(tmp_path / "none").newest() is None


def test_half_written_leftovers_are_removed(tmp_path):
    checkpoints(tmp_path).save(snapshot(5))
    (tmp_path / ".step-00000010.77.tmp").mkdir()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["step-00000005"]


def test_a_second_trainer_of_the_same_model_is_refused(tmp_path):
    with (
        only_trainer(tmp_path / "cell"),
        pytest.raises(MlimError, match="another process"),
        only_trainer(tmp_path / "cell"),
    ):
        pass
    with only_trainer(tmp_path / "cell"):
        pass


def _trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        _step(model, optimizer)
    return model, optimizer


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def test_model_and_optimiser_continue_bit_for_bit(tmp_path):
    model, optimizer = _trained(3)
    tensors = {"model": named_tensors(model), "optimizer": optimizer_tensors(optimizer)}
    checkpoints(tmp_path).save(Snapshot(3, tensors, {}))
    other, its_optimizer = _trained(0, seed=1)
    found = checkpoints(tmp_path).newest()
    assert found is not None
    moments = optimizer_like(its_optimizer, found.stored()["optimizer"])
    found.read({"model": named_tensors(other), "optimizer": moments})
    load_optimizer_tensors(its_optimizer, moments)
    for each in ((model, optimizer), (other, its_optimizer)):
        _step(*each)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_weights_of_another_model_are_refused():
    with pytest.raises(MlimError, match="another model"):
        require_same(named_tensors(nn.Linear(2, 2)), {"something": torch.ones(1)})


def test_fingerprints_do_not_depend_on_the_order_of_keys():
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})


def test_checkpoints_behind_a_link_out_of_the_work_folder_are_left_alone(tmp_path, tmp_path_factory):
    """Point 19: neither clearing nor half-written leftovers are followed to where mlim made nothing."""
    precious = tmp_path_factory.mktemp("precious")
    for name in ("step-00000001", ".step-00000002.1.tmp"):
        (precious / "mine" / name).mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to(precious)
    with pytest.raises(InputError, match="which mlim did not make"):
        checkpoints(tmp_path / "checkpoints" / "mine").clear()
    with pytest.raises(InputError, match="which mlim did not make"):
        remove_unfinished(tmp_path / "checkpoints" / "mine")
    assert len(list((precious / "mine").iterdir())) == 2


def test_a_checkpoint_of_an_earlier_version_is_read_by_the_present_names(tmp_path):
    weights = torch.arange(3.0)
    checkpoints = Checkpoints(tmp_path, "mine", 1, Terminal(quiet=True))
    checkpoints.save(Snapshot(1, {"model": {"backbone.encoder.blocks.0.mix.bias": weights}}, {}))
    saved = checkpoints.newest()
    assert [*saved.stored()["model"]] == ["backbone.encoder.blocks.0.attention_output.bias"]
    read = {"backbone.encoder.blocks.0.attention_output.bias": torch.zeros(3)}
    saved.read({"model": read})
    assert torch.equal(*read.values(), weights)


def test_what_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    """A network share that fails for a moment says nothing about the files on it."""
    saved = checkpoints(tmp_path)
    for step in (5, 10):
        saved.save(snapshot(step))

    def fails(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sha256_of", fails)
        with pytest.raises(MlimError, match=r"step-00000010 cannot be read now \(Input/output error\); it stays"):
            checkpoints(tmp_path).newest()
    assert names(tmp_path) == ["step-00000005", "step-00000010"]
    found = checkpoints(tmp_path).newest()
    assert found is not None
    assert found.step == 10
