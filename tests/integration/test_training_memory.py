"""Running out of memory: what a person is told, and how the largest batch is found."""

import subprocess
import sys

import pytest
import torch

from mlim.errors import MlimError
from mlim.steps.pretrain import largest_batch
from mlim.training.memory import explain_out_of_memory, find_batch_size

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("largest", [1, 5, 64])
@pytest.mark.parametrize("room", [0, 1, 5, 64, 100])
def test_the_largest_power_of_two_that_fits_is_found(room, largest):
    tried = []

    def step(size: int) -> None:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = find_batch_size(step, largest)
    assert found == max((size for size in (1, 2, 4, 8, 16, 32, 64) if size <= min(room, largest)), default=0)
    assert tried == sorted(tried)


def test_other_errors_are_not_mistaken_for_it():
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(8):
        raise RuntimeError("shapes do not agree")
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        find_batch_size(lambda size: torch.ones(2) @ torch.ones(3), 8)


def test_a_person_is_told_what_saves_memory():
    message = r"micro-batches of 8\..*batch_size=4.*compute.checkpoint_blocks=true"
    with pytest.raises(MlimError, match=message), explain_out_of_memory(8):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_cpu_running_out_is_noticed_by_its_own_words():
    """The real error of the CPU's allocator, in a process whose memory is limited."""
    program = (
        "import torch\n"
        "from mlim.training.memory import find_batch_size, limited_to_free_memory\n"
        "with limited_to_free_memory(torch.device('cpu')):\n"
        "    print(find_batch_size(lambda size: torch.empty(size, 1 << 28), 1 << 20))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 1 << 20


def test_a_real_pretraining_finds_its_batch(tiny_recipe, tiny_workspace, quiet):
    size = largest_batch(tiny_recipe, tiny_workspace, quiet, "recon-itm-mlm-mam", 0)
    assert size == 32  # 24 items to train on: nobody looks further than twice as many
