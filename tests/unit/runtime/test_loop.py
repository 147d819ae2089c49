from __future__ import annotations

import os
import threading

import pytest

from headway.runtime.loop import Loop

PATIENCE_S = 30.0


@pytest.fixture
def running():
    """A loop in a thread of its own."""
    loop, over = Loop(), threading.Event()

    def run():
        loop.own()
        while not over.is_set():
            loop.turn(PATIENCE_S)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield loop
    loop.post(over.set)
    thread.join(PATIENCE_S)


def test_what_is_posted_is_done_in_order():
    loop, done = Loop(), []
    for number in range(3):
        loop.post(lambda number=number: done.append(number))
    loop.turn(0.0)
    assert done == [0, 1, 2]
    loop.close()


def test_what_is_posted_meanwhile_waits_for_the_next_turn():
    loop, done = Loop(), []
    loop.post(lambda: loop.post(lambda: done.append(1)))
    loop.turn(0.0)
    assert done == []
    loop.turn(0.0)
    assert done == [1]
    loop.close()


def test_files_are_read_when_they_can_be():
    loop, ready = Loop(), []
    ear, mouth = os.pipe()
    loop.watch(ear, lambda: ready.append(os.read(ear, 1)))
    loop.turn(0.0)
    assert ready == []
    os.write(mouth, b"a")
    loop.turn(PATIENCE_S)
    assert ready == [b"a"]
    loop.unwatch(ear)
    loop.unwatch(ear)
    loop.close()
    os.close(ear)
    os.close(mouth)


def test_others_have_functions_called_and_wait(running):
    assert running.call(threading.current_thread) is not threading.current_thread()

    def fail():
        raise KeyError("no")

    with pytest.raises(KeyError):
        running.call(fail, PATIENCE_S)


def test_who_does_not_wait_long_enough_is_told(running):
    hold = threading.Event()
    running.post(lambda: hold.wait(PATIENCE_S))
    with pytest.raises(TimeoutError):
        running.call(lambda: 1, timeout_s=0.01)
    hold.set()
    assert running.call(lambda: 2) == 2


def test_a_closed_loop_rings_no_strangers_bell():
    loop = Loop()
    loop.own()
    done = []
    loop.post(lambda: done.append(1))
    loop.close()
    loop.close()
    assert done == [1]
    # Files that get the numbers of the closed ones.
    pipes = [os.pipe() for _ in range(3)]
    thread = threading.Thread(target=lambda: loop.post(lambda: None))
    thread.start()
    thread.join(PATIENCE_S)
    for ear, mouth in pipes:
        os.set_blocking(ear, False)
        with pytest.raises(BlockingIOError):
            os.read(ear, 1)
        os.close(ear)
        os.close(mouth)
    assert loop.call(lambda: 3) == 3
