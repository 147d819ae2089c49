"""How fast is one exchange, push and pull, beside what the memory and a raw socket can do?

Claim: workers of this machine exchange vectors at a good part of the speed of two plain copies,
workers elsewhere at a good part of a raw TCP socket's. Measured: from the push of a vector that lies
in the worker's memory until the next model lies there too. Server and worker are processes, one
thread of torch each. ``nothing``: the server looks at the update (identity, size, finite) and drops
it; ``async_sgd``: it applies it, and makes a new snapshot for the next pull. By each link: ``local``
(pipe and shared memory; ``awake``: both sides look for messages for up to 1 ms before they sleep, as
``Processes`` has it where there are more cores than workers), gRPC with shared memory, gRPC with the
vectors inline.

Beside them, in turns with them: two copies of that size in one process, and a raw TCP socket
(``sendall``, ``recv_into`` preallocated memory, a process at the other end) that moves the same bytes
and does nothing with them. And what no exchange can beat in this language, in the same turns: a
short message over a bare pipe and back, and a bare gRPC stream in Python that moves a short message
or the same bytes as an exchange. The floor of a link is made of these: for ``local`` the pipe and two
copies, for gRPC with shared memory the short message and two copies, inline the bytes. Asked: shared memory at least 0.6 of two copies, 0.3 with the update; the
network at least 0.4 of the socket; 10,000 values over gRPC on loopback in less than 400 us (p50).

    python benchmarks/exchange.py [--sizes 10000 1000000 10000000 50000000] [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from _floors import floors
from _links import LINKS, RULES, Served

from headway.runtime.exchange import Exchange

SMALL = 10_000
MOST_US = 400.0
FEWEST = 3
LOCALHOST = "127.0.0.1"
AWAKE = "local, awake"
FLOORS = {
    "local": ("bare pipe", "two copies"),
    AWAKE: ("bare pipe", "two copies"),
    "gRPC, shared memory": ("bare gRPC, short message", "two copies"),
    "gRPC, inline": ("bare gRPC, same bytes",),
}

Burst = Callable[[float], list[float]]


def timed(once: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for so long, and a few at least."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < FEWEST or time.perf_counter() < until:
        begin = time.perf_counter()
        once()
        found.append(time.perf_counter() - begin)
    return found


def exchanger(exchange: Exchange, size: int, *, copies: bool) -> Burst:
    """Bursts of exchanges.

    Args:
        exchange: One that has joined.
        size: Of the model.
        copies: Whether what is pulled lies elsewhere than in the worker's own memory.
    """
    mine, payload = torch.zeros(size), torch.full((size,), 1e-6)

    def burst(seconds: float) -> list[float]:
        exchange.ask()
        work = exchange.next()

        def once() -> None:
            nonlocal work
            assert work is not None
            exchange.push(work, payload, num_examples=1)
            work = exchange.next()
            assert work is not None
            assert work.parameters is not None
            if copies:
                mine.copy_(work.parameters)

        found = timed(once, seconds)
        assert work is not None
        exchange.push(work, payload, num_examples=1, again=False)
        exchange.settle()
        return found

    return burst


def copier(size: int) -> Burst:
    """Bursts of two copies."""
    there, here, payload = torch.zeros(size), torch.zeros(size), torch.ones(size)

    def once() -> None:
        there.copy_(payload)
        here.copy_(there)

    return lambda seconds: timed(once, seconds)


def receive(connection: socket.socket, view: memoryview) -> bool:
    """Fill the memory: whether there was so much."""
    at = 0
    while at < len(view):
        count = connection.recv_into(view[at:])
        if not count:
            return False
        at += count
    return True


def answer(port: int, num_bytes: int) -> None:
    """The other end of the raw socket."""
    pushed, model = memoryview(bytearray(num_bytes)), memoryview(bytearray(num_bytes))
    with socket.create_connection((LOCALHOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while receive(connection, pushed):
            connection.sendall(model)


@contextmanager
def raw_socket(size: int) -> Iterator[Burst]:
    """Bursts over a raw TCP socket."""
    payload, mine = memoryview(bytearray(4 * size)), memoryview(bytearray(4 * size))
    context = multiprocessing.get_context("spawn")
    with socket.create_server((LOCALHOST, 0)) as listener:
        port = listener.getsockname()[1]
        process = context.Process(target=answer, args=(port, 4 * size), daemon=True)
        process.start()
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def once() -> None:
        connection.sendall(payload)
        assert receive(connection, mine)

    with connection:
        yield lambda seconds: timed(once, seconds)
    process.join()


def asked_of(link: str, rule: str, size: int) -> float | None:
    """The ratio that is asked, to two copies or to the socket."""
    if size <= SMALL:
        return None
    if link == "gRPC, inline":
        return 0.4 if rule == "nothing" else None
    return 0.6 if rule == "nothing" else 0.3


def measure(size: int, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of one size."""
    with ExitStack() as stack:
        bursts: dict[tuple[str, str], Burst] = {
            ("two copies", ""): copier(size),
            ("raw TCP socket", ""): stack.enter_context(raw_socket(size)),
        }
        for name, floor in stack.enter_context(floors(4 * size)).items():
            bursts[name, ""] = partial(timed, floor)
        for rule in RULES:
            served = stack.enter_context(Served(size, rule))
            for link in LINKS:
                made = exchanger(served.join(link), size, copies=link != "gRPC, inline")
                bursts[link, rule] = made
            awake = stack.enter_context(Served(size, rule, awake=True))
            bursts[AWAKE, rule] = exchanger(awake.join("local"), size, copies=True)
        for burst in bursts.values():
            burst(0.0)
        runs = [{key: burst(seconds) for key, burst in bursts.items()} for _ in range(repeats)]
    return [row(size, key, runs) for key in bursts]


def row(
    size: int, key: tuple[str, str], runs: list[dict[tuple[str, str], list[float]]]
) -> dict[str, Any]:
    """What the table says of one way."""
    link, rule = key
    times = [median(run[key]) for run in runs]
    p95 = median(quantiles(run[key], n=20)[-1] for run in runs)
    ratios = {
        name: [median(run[other, ""]) / median(run[key]) for run in runs]
        for name, other in (("copies", "two copies"), ("socket", "raw TCP socket"))
    }
    of_floor = [
        sum(median(run[part, ""]) for part in FLOORS[link]) / median(run[key])
        for run in runs
        if link in FLOORS
    ]
    judged = ratios["socket" if link in ("gRPC, inline", "raw TCP socket") else "copies"]
    return {
        "values": size,
        "link": link,
        "rule": rule,
        "p50_us": round(median(times) * 1e6, 1),
        "min_us": round(min(times) * 1e6, 1),
        "max_us": round(max(times) * 1e6, 1),
        "p95_us": round(p95 * 1e6, 1),
        "gb_per_s": round(8 * size / median(times) / 1e9, 2),
        "of_copies": round(median(ratios["copies"]), 3),
        "of_socket": round(median(ratios["socket"]), 3),
        "of_floor": round(median(of_floor), 3) if of_floor else None,
        "min_ratio": round(min(judged), 3),
        "max_ratio": round(max(judged), 3),
        "asked": asked_of(link, rule, size) if rule else None,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print(
        "| values | link | rule | p50, us (min..max) | p95, us | GB/s | of two copies "
        "| of the socket | of the floor | the one asked for, min..max | asked |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for found in rows:
        asked = found["asked"] or ""
        if found["values"] == SMALL and found["link"].startswith("gRPC"):
            asked = f"p50 < {MOST_US:g} us"
        print(
            f"| {found['values']:,} | {found['link']} | {found['rule']} | {found['p50_us']:,} "
            f"({found['min_us']:,}..{found['max_us']:,}) | {found['p95_us']:,} "
            f"| {found['gb_per_s']} | {found['of_copies']} | {found['of_socket']} "
            f"| {found['of_floor'] or ''} "
            f"| {found['min_ratio']}..{found['max_ratio']} | {asked} |"
        )


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**6, 10**7, 5 * 10**7])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one burst, at least")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        found for size in options.sizes for found in measure(size, options.repeats, options.seconds)
    ]
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, one thread in each process, medians of {options.repeats} turns"
    )
    print_table(rows)


if __name__ == "__main__":
    main()
