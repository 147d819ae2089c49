"""What a server and a worker may be told: each argument's kind and range, looked at where it is given."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from headway.algorithms.arguments import check_choice, check_count, check_number, check_seed
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.runtime.finding import Place
from headway.runtime.kinds import FILE, FLAG, TEXT, check_kinds, value_of
from headway.runtime.security import ServerTLS, WorkerTLS, check_server, check_worker
from headway.runtime.timeouts import Retry, Timeouts
from headway.task.evaluation import choose_metrics
from headway.task.metrics import Loss, Metric, choose_loss
from headway.training.original import needed_arguments

__all__ = [
    "USUAL_PORT",
    "as_loss",
    "check_port",
    "check_server_terms",
    "check_training_terms",
    "check_worker_terms",
    "chosen_metrics",
]

USUAL_PORT: Final = 5000
"""Where a server listens, and a worker looks for it, if nobody says otherwise."""

_CONSISTENCIES: Final = ("hogwild", "snapshot")
_RECORDINGS: Final = ("events", "payloads")
_TRAIN: Final = "AsyncWorker.train"
_HIGHEST: Final = 65535


def check_port(port: object, *, where: str, lowest: int = 0) -> int:
    """Check that a number can be a port.

    Args:
        port: What was given.
        where: The call that errors name.
        lowest: The smallest that can be used.

    Raises:
        ArgumentTypeError: It is no whole number.
        ConfigurationError: It is out of its range.

    Example:
        >>> check_port(5000, where="AsyncWorker", lowest=1)
        5000
    """
    number = check_count("port", port, minimum=lowest)
    if number > _HIGHEST:
        raise ConfigurationError(
            "this is no port",
            where=f"{where}(port=...)",
            got=number,
            expected=f"{lowest} to {_HIGHEST}",
        )
    return number


def check_server_terms(
    *,
    host: Any,
    port: Any,
    consistency: Any,
    checkpoint_dir: Any,
    checkpoint_frequency: Any,
    folder: Any,
    record: Any,
    tls: Any,
    token: Any,
    insecure: Any,
    shared_memory: Any,
    max_workers: Any,
    max_rejections: Any,
    timeouts: Any,
    seed: Any,
) -> None:
    """Check the arguments of a server that are for nobody else; all are those of its constructor.

    Args:
        host: Where it listens.
        port: Likewise.
        consistency: What a worker pulls.
        checkpoint_dir: Where checkpoints go.
        checkpoint_frequency: How often.
        folder: A run folder.
        record: What is in it.
        tls: Its certificate.
        token: What workers show.
        insecure: Whether it may do without TLS.
        shared_memory: Whether it shares.
        max_workers: How many may be connected.
        max_rejections: When a worker is told to stop.
        timeouts: When a silent one is lost.
        seed: Of all that it draws.

    Raises:
        ArgumentTypeError: One is of the wrong kind.
        ConfigurationError: One is out of its range, or whoever reaches the server could change it.
    """
    where = "ParameterServer"
    check_kinds(
        where,
        host=(host, TEXT),
        checkpoint_dir=(checkpoint_dir, FILE.or_none()),
        folder=(folder, FILE.or_none()),
        tls=(tls, value_of(ServerTLS, 'certificate="...", key="..."').or_none()),
        token=(token, TEXT.or_none()),
        insecure=(insecure, FLAG),
        shared_memory=(shared_memory, FLAG),
        timeouts=(timeouts, value_of(Timeouts, "lease_s=10")),
    )
    check_port(port, where=where)
    check_choice("consistency", consistency, _CONSISTENCIES)
    check_count("checkpoint_frequency", checkpoint_frequency)
    _check_record(record, folder, where)
    check_count("max_workers", max_workers)
    if max_rejections is not None:
        check_count("max_rejections", max_rejections)
    check_seed(seed, where=f"{where}(seed=...)")
    check_server(host, tls, token, insecure=insecure)


def _check_record(record: Any, folder: Any, where: str) -> None:
    if record not in _RECORDINGS:
        raise UnknownNameError.of(
            "recording", str(record), _RECORDINGS, where=f"{where}(record=...)"
        )
    if record == "payloads" and folder is None:
        raise ConfigurationError(
            "payloads are kept in a run folder, and there is none",
            where=where,
            got='record="payloads" without folder',
            help="give folder=..., on the command line --out",
        )


def check_worker_terms(
    *,
    address: str,
    port: Any,
    name: Any,
    prefetch: Any,
    tls: Any,
    token: Any,
    insecure: Any,
    shared_memory: Any,
    retry: Any,
) -> None:
    """Check the arguments of a worker that are for nobody else; all are those of its constructor.

    Args:
        address: Of the server, with its port.
        port: The one that was given beside the address.
        name: What it is called.
        prefetch: Whether it asks ahead.
        tls: How it knows the server.
        token: What it shows.
        insecure: Whether that may be seen.
        shared_memory: Whether it shares.
        retry: How it comes back.

    Raises:
        ArgumentTypeError: One is of the wrong kind.
        ConfigurationError: The address is none, there are two ports, or a token would travel where
            others can read it.
    """
    check_kinds(
        "AsyncWorker",
        name=(name, TEXT),
        prefetch=(prefetch, FLAG),
        tls=(tls, value_of(WorkerTLS, 'ca="..."').or_none()),
        token=(token, TEXT.or_none()),
        insecure=(insecure, FLAG),
        shared_memory=(shared_memory, FLAG),
        retry=(retry, value_of(Retry, "give_up_s=60").or_none()),
    )
    place = Place.of(address)
    if port not in (place.port, USUAL_PORT):
        raise ConfigurationError(
            "the server's port is given twice",
            where="AsyncWorker(server_address=..., port=...)",
            got=f"{address} and {port}",
            help="give one of them",
        )
    check_worker(place.host, tls, token, insecure=insecure)


def check_training_terms(
    *, epochs: Any, log_frequency: Any, shuffle: Any, drop_last: Any, seed: Any
) -> None:
    """Check the numbers and flags of a worker's training.

    Args:
        epochs: Passes through the data.
        log_frequency: Batches from row to row.
        shuffle: Whether each pass has a new order.
        drop_last: Whether a smaller last batch is left out.
        seed: Of the order; ``None``: the server's.

    Raises:
        ArgumentTypeError: One is of the wrong kind.
        ConfigurationError: One is out of its range.
    """
    check_count("log_frequency", log_frequency)
    check_number("epochs", epochs, above=True)
    check_kinds(_TRAIN, shuffle=(shuffle, FLAG), drop_last=(drop_last, FLAG))
    if seed is not None:
        check_seed(seed, where=f"{_TRAIN}(seed=...)")


def as_loss(loss_fn: Any, call: str) -> Loss:
    """The loss that a user gave: a name, a function, or a class of torch's, which is made here.

    Args:
        loss_fn: It.
        call: The call that errors name.

    Raises:
        UnknownNameError: No loss has this name.
        ArgumentTypeError: It is none.
    """
    where = f"{call}(loss_fn=...)"
    if isinstance(loss_fn, type) and issubclass(loss_fn, nn.Module):
        if needed := needed_arguments(loss_fn):
            raise ArgumentTypeError(
                "that makes no loss without arguments",
                where=where,
                got=f"{loss_fn.__name__}, which needs {needed}",
                expected='"cross_entropy", "mse", or a function (outputs, targets) -> mean loss',
            )
        loss_fn = loss_fn()
    return choose_loss(loss_fn, where=where)


def chosen_metrics(metrics: Any, loss: Loss, call: str) -> dict[str, Metric]:
    """The metrics that a user asked for, by their names.

    Args:
        metrics: A name, several, or a mapping of names to functions.
        loss: What ``"loss"`` stands for.
        call: The call that errors name.

    Raises:
        UnknownNameError: No metric has this name.
        ArgumentTypeError: It is none of these.
        ConfigurationError: There are none.
    """
    where = f"{call}(metrics=...)"
    means, wholes = choose_metrics(metrics, loss, where=where)
    given = {
        name: metric if metric is loss else _one_number(name, metric, where)
        for name, metric in wholes.items()
    }
    return {**means, **given}


def _one_number(name: str, metric: Metric, where: str) -> Metric:
    """A user's metric, which may return anything."""

    def measured(outputs: Any, targets: Any) -> float:
        value = metric(outputs, targets)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            shape = list(value.shape) if hasattr(value, "shape") else ""
            raise ArgumentTypeError(
                f"metric `{name}` must be one number",
                where=where,
                got=f"a {type(value).__name__} of shape {shape}" if shape else repr(value),
                help="return the mean over the batch",
            ) from None

    return measured
