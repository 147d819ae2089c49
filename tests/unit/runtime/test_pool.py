from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from headway.runtime.pool import Pool

PATIENCE_S = 30.0


@pytest.fixture
def pool():
    made = Pool(2, "test-pool")
    yield made
    made.shutdown()


def test_values_and_errors_come_back(pool):
    assert pool.submit(divmod, 7, 2).result(PATIENCE_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(PATIENCE_S)
    assert list(pool.map(abs, (-1, -2, -3))) == [1, 2, 3]


def test_two_work_at_a_time_and_the_third_waits(pool):
    both, go, third = threading.Barrier(3), threading.Event(), []

    def work():
        both.wait(PATIENCE_S)
        assert go.wait(PATIENCE_S)

    two = [pool.submit(work) for _ in range(2)]
    both.wait(PATIENCE_S)
    later = pool.submit(third.append, 1)
    assert third == []
    assert not later.running()
    go.set()
    for future in (*two, later):
        future.result(PATIENCE_S)
    assert third == [1]


def test_a_thread_that_is_free_is_used_again(pool):
    names = set()
    for _ in range(20):
        pool.submit(lambda: names.add(threading.current_thread().name)).result(PATIENCE_S)
    assert names <= {"test-pool_0", "test-pool_1"}
    assert all(thread.daemon for thread in threading.enumerate() if thread.name in names)


def test_what_waits_can_be_cancelled():
    pool = Pool(1, "test-pool")
    begun, go = threading.Event(), threading.Event()

    def work():
        begun.set()
        return go.wait(PATIENCE_S)

    first, second = pool.submit(work), pool.submit(int)
    assert begun.wait(PATIENCE_S)
    pool.shutdown(wait=False, cancel_futures=True)
    go.set()
    pool.shutdown()
    assert first.result(PATIENCE_S)
    assert second.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)


def test_a_process_does_not_wait_for_a_call_that_does_not_end():
    script = (
        "import threading\n"
        "from headway.runtime.pool import Pool\n"
        "begun = threading.Event()\n"
        "Pool(2, 'p').submit(lambda: (begun.set(), threading.Event().wait()))\n"
        "begun.wait(); raise SystemExit(7)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=False, timeout=2 * PATIENCE_S)
    assert run.returncode == 7
