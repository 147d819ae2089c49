"""What does compression save, what does it cost in time, and what in loss?

Speed: each codec's encode and decode of a float32 vector, as GB/s of the vector's own bytes, beside
a plain copy in the same run, all interleaved.

Training: MNIST-5k, an MLP 784-32-10, asynchronous SGD, each client's pushes compressed with error
feedback (``compressed_pushes``), against the same seed without compression. Asked: at least 30
times fewer pushed bytes at 1 % of the final test loss. Bytes are those of the messages.

    python benchmarks/compression.py [--seeds 5] [--sizes 10000000] [--parts speed training] [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from _claims import in_parallel, parser, show

import headway as hw
from headway import compression

CODECS = (
    compression.none(),
    compression.bf16(),
    compression.int8(),
    compression.topk(0.1, values="int8"),
    compression.topk(0.01, values="int8"),
    compression.topk(0.01),
)
TRAINED = (
    (compression.none(), True),
    (compression.bf16(), True),
    (compression.int8(), True),
    (compression.topk(0.1, values="int8"), True),
    (compression.topk(0.06, values="int8"), True),
    (compression.topk(0.01, values="int8"), True),
    (compression.topk(0.06, values="int8"), False),
)
SPEED_COLUMNS = {
    "codec": "codec",
    "num_params": "parameters",
    "times_fewer": "times fewer bytes|.1f",
    "encode": "encode, GB/s|.2f",
    "decode": "decode, GB/s|.2f",
}
TRAINING_COLUMNS = {
    "codec": "pushes",
    "times_fewer": "times fewer bytes|.1f",
    "loss": "test loss|.4f",
    "change": "change, %|+.2f",
    "accuracy": "accuracy|.4f",
}


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def speed(num_params: int, repeats: int) -> list[dict[str, Any]]:
    """One size: all codecs and a copy in turn."""
    vector = torch.randn(num_params, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(vector)
    messages = [codec.encode(vector) for codec in CODECS]
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(repeats + 1):
        for key, codec in enumerate(CODECS):
            encode = seconds(lambda codec=codec: codec.encode(vector))
            decode = seconds(lambda codec=codec, key=key: codec.decode_into(messages[key], out))
            if number:
                rates.setdefault(("encode", key), []).append(vector.nbytes / encode / 1e9)
                rates.setdefault(("decode", key), []).append(vector.nbytes / decode / 1e9)
        rates.setdefault(("copy", 0), []).append(
            vector.nbytes / seconds(lambda: out.copy_(vector)) / 1e9
        )
    rows = [
        {
            "codec": repr(codec),
            "num_params": f"{num_params:,}",
            "times_fewer": [vector.nbytes / len(messages[key])],
            "encode": rates["encode", key],
            "decode": rates["decode", key],
        }
        for key, codec in enumerate(CODECS)
    ]
    copy = {"codec": "a copy", "num_params": f"{num_params:,}", "times_fewer": [1.0]}
    return [*rows, {**copy, "encode": rates["copy", 0], "decode": rates["copy", 0]}]


@dataclass
class Counted:
    """Compressed pushes whose states are kept, so that their bytes can be added up."""

    inner: Any
    states: list[compression.CompressedPushes] = field(default_factory=list)

    def init(self, *size: Any) -> compression.CompressedPushes:
        state: compression.CompressedPushes = self.inner.init(*size)
        self.states.append(state)
        return state

    def gradient(self, *arguments: Any) -> None:
        self.inner.gradient(*arguments)

    def payload(self, *arguments: Any) -> torch.Tensor:
        sent: torch.Tensor = self.inner.payload(*arguments)
        return sent

    def receipt(self, *arguments: Any) -> None:
        self.inner.receipt(*arguments)


def train(job: tuple[Any, ...]) -> dict[str, float]:
    """One run: pushed bytes per update, and the model at the end."""
    told, feedback, seed, clients, updates, rate = job
    codec = compression.from_description(json.loads(told))
    counted = Counted(compression.compressed_pushes(codec, feedback=feedback))
    algorithm = hw.algorithms.async_sgd(learning_rate=rate)
    result = hw.simulate(
        hw.Task(
            hw.models.mlp(784, 32, 10),
            "cross_entropy",
            hw.data.federated(hw.data.mnist_5k(), hw.data.iid(clients), seed=seed),
            local=hw.LocalTraining(steps=1, batch_size=32),
            name="mnist_5k",
        ),
        replace(algorithm, client=(*algorithm.client, counted)),
        population=hw.population.halfnormal(clients, scale_s=1.0),
        stop=hw.until(updates=updates),
        evaluate_every=hw.every(updates=updates),
        seed=seed,
        record="nothing",
    )
    sent = sum(state.sent for state in counted.states)
    return {
        "bytes": sum(state.sent_bytes for state in counted.states) / sent,
        "loss": result.final("loss"),
        "accuracy": result.final("accuracy"),
    }


def training(arguments: Any) -> list[dict[str, Any]]:
    """Every codec with every seed; each against the uncompressed run of its seed."""
    jobs = [
        (
            *(json.dumps(codec.describe()), feedback, seed),
            *(arguments.clients, arguments.updates, arguments.rate),
        )
        for codec, feedback in TRAINED
        for seed in range(arguments.seeds)
    ]
    runs = in_parallel(train, jobs, arguments.processes)
    rows = []
    plain = runs[: arguments.seeds]
    for number, (codec, feedback) in enumerate(TRAINED):
        mine = runs[number * arguments.seeds : (number + 1) * arguments.seeds]
        pairs = list(zip(mine, plain, strict=True))
        rows.append(
            {
                "codec": repr(codec) + ("" if feedback else ", no feedback"),
                "times_fewer": [base["bytes"] / one["bytes"] for one, base in pairs],
                "loss": [one["loss"] for one in mine],
                "change": [100.0 * (one["loss"] / base["loss"] - 1.0) for one, base in pairs],
                "accuracy": [one["accuracy"] for one in mine],
            }
        )
    return rows


def main() -> None:
    """Print the tables, or JSON."""
    made = parser(__doc__)
    made.add_argument("--parts", nargs="+", default=["speed", "training"])
    made.add_argument("--sizes", type=int, nargs="+", default=[159_010, 10_000_000])
    made.add_argument("--repeats", type=int, default=9)
    made.add_argument("--clients", type=int, default=4)
    made.add_argument("--updates", type=int, default=6000)
    made.add_argument("--rate", type=float, default=0.05)
    arguments = made.parse_args()
    if "speed" in arguments.parts:
        torch.set_num_threads(1)
        rows = [row for size in arguments.sizes for row in speed(size, arguments.repeats)]
        shown = [{**row, **medians(row)} for row in rows]
        title = f"codecs, medians and ranges of {arguments.repeats}"
        show(title, SPEED_COLUMNS, rows if arguments.json else shown, as_json=arguments.json)
    if "training" in arguments.parts:
        rows = training(arguments)
        title = f"{arguments.clients} clients, {arguments.updates} updates, {arguments.seeds} seeds"
        show(title, TRAINING_COLUMNS, rows, as_json=arguments.json)


def medians(row: dict[str, Any]) -> dict[str, str]:
    """A median with its range, which says more of a rate than a mean."""
    return {
        key: f"{statistics.median(row[key]):.2f} ({min(row[key]):.2f}..{max(row[key]):.2f})"
        for key in ("encode", "decode")
    }


if __name__ == "__main__":
    main()
