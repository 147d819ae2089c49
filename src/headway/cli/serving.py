"""``headway server``, ``headway worker`` and ``headway status``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from headway.cli.options import AsJson, Config, Settings, say_json
from headway.cli.standing import status_lines
from headway.cli.typed import TERMS

if TYPE_CHECKING:
    from headway.config import Resolved
    from headway.config.model import Compression
    from headway.data import Federated
    from headway.runtime.security import WorkerTLS
    from headway.task import LocalTraining, Task

__all__ = ["server", "status", "worker"]

_EVERY_S: Final = 1.0
_PORT: Final = 5000
_TOLD_TO_STOP: Final = 1
_TO_THE_TOP: Final = "\x1b[H\x1b[2J"

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="Of the server: host:port.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Holds the token that workers show."),
]
Certificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="One's own certificate, PEM.")
]
Key = Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key, PEM.")]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Who signs the other side's certificate, PEM."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Use the network without TLS all the same.")
]


def server(
    config: Config,
    settings: Settings = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="0: any free one.")] = _PORT,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="End when N have joined and all have left. [default: Ctrl-C]"
        ),
    ] = None,
    staleness_policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What is done about stale updates. May be repeated."),
    ] = None,
    staleness_lr_factor: Annotated[
        float | None,
        typer.Option(metavar="F", help="Of the policy adaptive_lr, in (0, 1]. [default: 0.9]"),
    ] = None,
    max_staleness: Annotated[
        int | None, typer.Option(metavar="VERSIONS", help="Later updates are rejected.")
    ] = None,
    max_rejections: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="A worker is told to stop after so many faulty updates in a row. 0: never.",
        ),
    ] = 20,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write checkpoints here, and go on from them."),
    ] = None,
    checkpoint_frequency: Annotated[
        int, typer.Option(metavar="VERSIONS", help="From one checkpoint to the next.")
    ] = 1000,
    durability: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="What survives a crash: checkpoint (the newest), or log (every acknowledged update).",
        ),
    ] = "checkpoint",
    compression: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What workers may compress with: none, bf16, int8, topk. May be repeated. "
            "[default: all]",
        ),
    ] = None,
    pulls: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Models for workers that compress: exact (differences), whole, bf16, int8 or topk. "
            "[default: exact]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A run folder; with checkpoints FOLDER-2 and so on, if it is in use. [default: none]",
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What the run folder keeps: events, or payloads to replay the run. [default: events]",
        ),
    ] = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Authority = None,
    insecure: Insecure = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not say who comes and goes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a model to workers that connect, until Ctrl-C or until they have finished."""
    from headway import config as room
    from headway.config import load
    from headway.training.server import ParameterServer

    policies = staleness_policy and json.dumps(staleness_policy)
    terms = zip(TERMS, (record, policies, staleness_lr_factor, max_staleness), strict=True)
    told = [f"{key}={value}" for key, value in terms if value is not None]
    resolved = load(config, assignments=[*(settings or ()), *told])
    (_, task), algorithm = _task(resolved), room.make_algorithm(resolved)
    offer = _compression(resolved)
    serving = ParameterServer(
        task.make_module(resolved.config.seed),
        host=host,
        port=port,
        algorithm=algorithm,
        **room.make_terms(resolved),
        max_rejections=max_rejections or None,
        concurrency=resolved.config.run.concurrency,
        checkpoint_dir=checkpoint_dir,
        checkpoint_frequency=checkpoint_frequency,
        durability=cast("Any", durability),
        compression=compression or offer.offered,
        pulls=_pulls(pulls or offer.pulls),
        folder=out,
        record=_recording(resolved, record, out),
        tls=_server_tls(certificate, key, ca),
        token=_token(token_file),
        insecure=insecure,
        seed=resolved.config.seed,
    )
    serving.config = resolved.tree_of()
    with nullcontext() if quiet else _guests(), serving:
        typer.echo(f"serving {serving.algorithm} at {serving.address}", err=True)
        if workers is None:
            serving.serve()
        else:
            serving.wait_for_workers(workers)
        result = serving.stop("all workers have left")
    if as_json:
        say_json(
            {
                "address": serving.address,
                "updates": result.updates,
                "versions": result.versions,
                "counts": result.counts,
                "stop_reason": result.stop_reason,
                "weights_hash": result.weights_hash,
            }
        )
    else:
        typer.echo(str(result))


def worker(
    address: Address,
    config: Config,
    settings: Settings = None,
    client: Annotated[
        int, typer.Option(metavar="N", help="Whose part of the data, from 0 on.")
    ] = 0,
    epochs: Annotated[float, typer.Option(metavar="N", help="Passes through it.")] = 1.0,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What the server calls it. [default: it chooses]")
    ] = "",
    prefetch: Annotated[
        bool, typer.Option("--prefetch", help="Get the next model while a batch is computed.")
    ] = False,
    compression: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How updates are written: auto (as the link needs), none, bf16, int8 or topk. "
            "[default: none]",
        ),
    ] = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Authority = None,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Train for a server on one client's part of the data."""
    from headway import config as room
    from headway.config import load
    from headway.core.errors import ConfigurationError
    from headway.training.worker import AsyncWorker

    resolved = load(config, assignments=settings or ())
    data, task = _task(resolved)
    if not 0 <= client < data.num_clients:
        raise ConfigurationError(
            "there is no such client",
            where="--client",
            got=client,
            expected=f"0 to {data.num_clients - 1}",
        )
    local = _local(resolved)
    inputs, targets = data.client(client)
    owns = resolved.config.algorithm is None or room.make_algorithm(resolved).payload != "gradient"
    amount: dict[str, Any] = {"update_frequency": local.steps or 1}
    if owns and local.steps is None:
        amount = {"local_epochs": float(local.epochs or 1)}
    training = AsyncWorker(
        address,
        model=partial(_made, task),
        local_batch_size=local.batch_size or len(targets),
        device=resolved.config.run.device,
        name=name,
        prefetch=prefetch,
        compression=compression or _compression(resolved).pushes,
        tls=_worker_tls(certificate, key, ca),
        token=_token(token_file),
        insecure=insecure,
        **amount,
    )
    choice = local.choice
    make: Any = choice.cls
    history = training.train(
        dataset=(inputs, targets),
        epochs=epochs,
        optimizer=partial(make, lr=local.learning_rate, **choice.options) if owns else None,
        shuffle=local.shuffle,
        drop_last=local.drop_last,
        metrics=["loss"],
    )
    if as_json:
        say_json(history.to_dict())
    else:
        typer.echo(str(history))
    if history.dismissed:
        raise typer.Exit(_TOLD_TO_STOP)


def status(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Of the server: host:port, or host.")
    ] = f"127.0.0.1:{_PORT}",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Ask again every second, until Ctrl-C; with --json a line each."
        ),
    ] = False,
    token_file: TokenFile = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Authority = None,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Ask a server who is in, how stale they are, and why updates were dropped."""
    from headway.runtime.connect import fetch_status
    from headway.runtime.finding import with_port

    ask = partial(
        fetch_status,
        with_port(address, _PORT),
        security=_worker_tls(certificate, key, ca),
        token=_token(token_file),
        insecure=insecure,
    )
    if watch:
        _watch(ask, as_json=as_json)
    elif as_json:
        say_json(ask())
    else:
        typer.echo("\n".join(status_lines(ask())))


def _watch(ask: Callable[[], dict[str, Any]], *, as_json: bool) -> None:
    """Ask again and again, until Ctrl-C or the server's end."""
    told = None
    with suppress(KeyboardInterrupt):
        while True:
            told = ask() if told is None else _asked_again(ask)
            if as_json:
                say_json(told, indent=None)
            elif sys.stdout.isatty():
                typer.echo(_TO_THE_TOP + "\n".join(status_lines(told)))
            else:
                typer.echo("\n".join([*status_lines(told), ""]))
            time.sleep(_EVERY_S)


def _asked_again(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from headway.core.errors import ServerLostError

    try:
        return ask()
    except ServerLostError as error:
        raise ServerLostError(
            "the server has ended, or cannot be reached any more",
            where=error.where,
            got=error.message,
            help="watch it again when it has been started again",
        ) from error


@contextmanager
def _guests() -> Iterator[None]:
    """Say who comes and goes, one line each."""
    from headway.training.guestbook import COMINGS

    log, lines = logging.getLogger(COMINGS), _Lines()
    before = log.level, log.propagate
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(before[0])
        log.propagate = before[1]


class _Lines(logging.Handler):
    """Log records as lines of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage().removeprefix("Headway: "), err=True)


def _task(resolved: Resolved) -> tuple[Federated, Task]:
    from headway import config as room
    from headway.task import Task

    data = room.make_data(resolved)
    task = None if data is None else room.make_task(resolved, data)
    if data is None or not isinstance(task, Task):
        raise _no_data(resolved)
    return data, task


def _recording(resolved: Resolved, asked: str | None, out: Path | None) -> Any:
    """What the command line says; else what the file says, where that can be done."""
    recording = resolved.config.run.record
    if asked is None and (out is None or recording == "nothing"):
        return "events"
    return recording


def _compression(resolved: Resolved) -> Compression:
    from headway.config.model import Compression

    return resolved.config.compression or Compression()


def _pulls(how: str) -> Any:
    from headway.core.errors import UnknownNameError
    from headway.runtime.narrow import read_compression

    known = ("exact", "whole", "bf16", "int8", "topk")
    if how not in known:
        raise UnknownNameError.of("way of a model", how, known, where="--pulls")
    if how in known[:2]:
        return how if how == "exact" else None
    return read_compression(how)


def _made(task: Task) -> Any:
    return task.make_module(0)


def _local(resolved: Resolved) -> LocalTraining:
    from headway.task import LocalTraining

    return LocalTraining(**resolved.tree.get("local", {}))


def _no_data(resolved: Resolved) -> Exception:
    from headway.core.errors import ConfigurationError

    return ConfigurationError(
        "a server and its workers train a model on data",
        where=resolved.place(("task",)),
        got=f'kind = "{resolved.config.task.kind}"',
        expected="the sections [data], [model] and [local]",
    )


def _token(path: Path | None) -> str | None:
    from headway.core.errors import ConfigurationError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "the file with the token cannot be read", where=str(path), got=str(error)
        ) from error


def _server_tls(certificate: Path | None, key: Path | None, ca: Path | None) -> Any:
    from headway.core.errors import ConfigurationError
    from headway.runtime.security import ServerTLS

    if certificate is None and key is None and ca is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError(
            "a server's certificate and its key belong together",
            where="--certificate, --key",
            help="give both",
        )
    return ServerTLS(certificate=certificate, key=key, client_ca=ca)


def _worker_tls(certificate: Path | None, key: Path | None, ca: Path | None) -> WorkerTLS | None:
    from headway.runtime.security import WorkerTLS

    if certificate is None and key is None and ca is None:
        return None
    return WorkerTLS(ca=ca, certificate=certificate, key=key)
