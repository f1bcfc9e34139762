"""Images in archives, read by several threads and processes at once."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.archives import WRITERS, store, write

pytestmark = pytest.mark.integration


@pytest.fixture(params=sorted(WRITERS))
def kind(request):
    return request.param


def test_threads_and_forked_processes_read_at_once(kind, tmp_path):
    members = [(f"{number}.jpg", str(number).encode() * 500) for number in range(50)]
    pictures = store(write(kind, tmp_path, members))
    pictures.check()
    wanted = members * 40

    def read_all():
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(pictures.read, [name for name, _ in wanted]))

    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(read_all() != [data for _, data in wanted])
        finally:  # an error must not leave this function: two processes would go on with the tests
            os._exit(status)
    assert read_all() == [data for _, data in wanted]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
