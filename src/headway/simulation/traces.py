"""Populations from tables and files: what was measured of real clients.

The forms are described in docs/populations.md. Files are JSON or CSV; nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    UnknownNameError,
    UsageError,
)
from headway.simulation.arguments import as_items, check_count, check_number, check_positive
from headway.simulation.availability import Leaving, check_leaving
from headway.simulation.clients import Population, Unit
from headway.simulation.conditions import with_link, with_windows
from headway.simulation.laws import Given
from headway.simulation.tracefiles import Problem, read_csv, read_json

__all__ = ["from_fedscale", "from_file", "from_table"]

_COLUMNS: Final = ("time_s", "down_bps", "up_bps", "latency_s", "available")
_UNITS: Final = ("job", "step")
_BITS_PER_FEDSCALE_KBIT: Final = 1024.0

_Windows = list[list[list[float]]]


def from_table(
    time_s: Iterable[float],
    *,
    down_bps: Sequence[float] | None = None,
    up_bps: Sequence[float] | None = None,
    latency_s: Sequence[float] | None = None,
    unit: Unit = "job",
) -> Population:
    """Make clients from a table with one row for each, given column by column.

    Args:
        time_s: The time of each client's jobs or steps, in virtual seconds, above 0.
        down_bps: Bandwidth to each client, in bits per second, above 0.
        up_bps: Bandwidth from each client, likewise; where it alone or ``down_bps`` alone is given,
            both ways have it.
        latency_s: What each way takes on top, in virtual seconds, 0 or above; by default 0.
        unit: Whether ``time_s`` is that of a job or of a local step.

    Returns:
        The population, with as many clients as there are times.

    Raises:
        ConfigurationError: If a column has another length, or a value is outside its range.

    Example:
        >>> clients = from_table([0.1, 0.4], down_bps=[8e6, 1e6], unit="step")
        >>> clients.duration_s(1, dispatch=0, seed=0, num_steps=10)
        4.0
        >>> clients.link.transfer_s(1, 125_000, 125_000, seed=0)
        2.0
    """
    law = Given(as_items("time_s", time_s, where="population.from_table"))
    clients = Population(law, len(law.times_s), "client", unit)
    # Not with `or`: an array has no truth value.
    down = up_bps if down_bps is None else down_bps
    up = down_bps if up_bps is None else up_bps
    if down is not None and up is not None:
        return with_link(
            clients, down_bps=down, up_bps=up, latency_s=0.0 if latency_s is None else latency_s
        )
    if latency_s is not None:
        raise ConfigurationError(
            "a latency needs a bandwidth",
            where="population.from_table",
            got="latency_s without down_bps",
            help='give down_bps too; float("inf") costs no time',
        )
    return clients


def from_file(
    path: str | Path,
    *,
    num_clients: int | None = None,
    unit: Unit | None = None,
    availability: str | Path | None = None,
    period_s: float | None = None,
    leaving: Leaving = "finish",
) -> Population:
    r"""Make clients from a trace file, CSV or JSON: speed, link, and when they are available.

    Args:
        path: The file; one row or object for each client, as docs/populations.md describes.
        num_clients: How many clients; beyond those in the file its rows are used again from the
            first. By default as many as there are rows.
        unit: Whether ``time_s`` is that of a job or of a local step; by default what the file says,
            or ``"job"``.
        availability: A CSV file of windows with the columns client, start_s, end_s; a client that
            is not in it never starts. By default what ``path`` says, or always.
        period_s: After which the windows repeat, in virtual seconds; by default what the file says,
            or never.
        leaving: What becomes of a job that outlasts its window: ``"finish"`` or ``"lose"``.

    Returns:
        The population.

    Raises:
        ConfigurationError: If a file cannot be read, or a value in it cannot be used.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "phones.csv").write_text("client,time_s\n0,0.5\n1,2.0\n")
        ...     clients = from_file(f"{folder}/phones.csv", num_clients=4)
        >>> clients.duration_s(3, dispatch=0, seed=0)
        2.0
    """
    where = "population.from_file"
    source = _path("path", path, where)
    check_leaving(leaving, f"{where}(leaving=...)")
    if period_s is not None:
        period_s = check_positive("period_s", period_s, where=where)
    rows, about = _clients_of(source)
    count = _count(num_clients, len(rows), where)
    chosen = [rows[client % len(rows)] for client in range(count)]
    times = [_number(source, row, k % len(rows), "time_s") for k, row in enumerate(chosen)]
    unit = _unit(about.get("unit", "job"), str(source)) if unit is None else _unit(unit, where)
    with _naming(source):
        clients = from_table(
            times,
            down_bps=_column(source, chosen, "down_bps"),
            up_bps=_column(source, chosen, "up_bps"),
            latency_s=_column(source, chosen, "latency_s"),
            unit=unit,
        )
    windows: Sequence[Any] | None = _column(source, chosen, "available")
    if availability is not None:
        source = _path("availability", availability, where)
        found = _windows_of(source, len(rows))
        windows = [found[client % len(rows)] for client in range(count)]
    if windows is None and period_s is not None:
        raise ConfigurationError(
            "a period needs windows that repeat",
            where=f"{where}(period_s=...)",
            got="a file without windows",
            help="pass availability=, or leave period_s out",
        )
    period = about.get("period_s") if period_s is None else period_s
    if period is not None:
        check_positive("period_s", period, where=str(source))
    if windows is None:
        return clients
    with _naming(source):
        return with_windows(clients, windows, period_s=period, leaving=leaving)


def from_fedscale(
    capacity: str | Path,
    *,
    batch_size: int,
    availability: str | Path | None = None,
    num_clients: int | None = None,
    augmentation: float = 3.0,
    leaving: Leaving = "finish",
) -> Population:
    """Make clients from FedScale's device traces, exported to JSON.

    A step takes ``augmentation * batch_size * computation / 1000`` seconds; bytes travel both ways
    at ``1024 * communication`` bits per second.

    Args:
        capacity: JSON export of ``client_device_capacity``: for each client ``computation``, in
            milliseconds per example, and ``communication``, in kilobits of 1,024 bits per second.
        batch_size: Examples per local step, at least 1.
        availability: JSON export of ``client_behave_trace``: for each client ``active`` and
            ``inactive``, times in seconds, and ``finish_time``, after which they repeat. By default
            clients are always available.
        num_clients: How many clients; by default as many as there are capacities. Both traces are
            used again from the first where there are more clients.
        augmentation: A training step's time over that of inference, above 0.
        leaving: What becomes of a job that outlasts its window: ``"finish"`` or ``"lose"``.

    Returns:
        The population, with times per step.

    Raises:
        ConfigurationError: If a file cannot be read, or is the pickle that FedScale publishes.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     trace = '{"1": {"computation": 100.0, "communication": 1000.0}}'
        ...     _ = (Path(folder) / "capacity.json").write_text(trace)
        ...     clients = from_fedscale(f"{folder}/capacity.json", batch_size=10)
        >>> clients.duration_s(0, dispatch=0, seed=0, num_steps=2)
        6.0

    Source:
        FedScale (Lai et al., ICML 2022, arXiv 2105.11367): its traces and the times that it derives
        from them. Its windows include their last instant; here they do not. It numbers clients
        from 1, here they are taken in the order of their numbers, from 0.
    """
    where = "population.from_fedscale"
    examples = check_count("batch_size", batch_size, where=where)
    check_leaving(leaving, f"{where}(leaving=...)")
    factor = check_positive("augmentation", augmentation, where=where) * examples / 1000.0
    source = _path("capacity", capacity, where)
    rows = _in_order(source, ("computation", "communication"))
    count = _count(num_clients, len(rows), where)
    speeds = [factor * _number(source, row, k, "computation") for k, row in enumerate(rows)]
    rates = [
        _BITS_PER_FEDSCALE_KBIT * _number(source, row, k, "communication")
        for k, row in enumerate(rows)
    ]
    clients = from_table(
        [speeds[client % len(rows)] for client in range(count)],
        down_bps=[rates[client % len(rows)] for client in range(count)],
        unit="step",
    )
    if availability is None:
        return clients
    source = _path("availability", availability, where)
    traces = _in_order(source, ("active", "inactive", "finish_time"))
    spans = [_fedscale_windows(source, row, k) for k, row in enumerate(traces)]
    with _naming(source):
        return with_windows(
            clients,
            [spans[client % len(spans)][0] for client in range(count)],
            period_s=[spans[client % len(spans)][1] for client in range(count)],
            leaving=leaving,
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about values that stand in a file say in which."""
    try:
        yield
    except UsageError as error:
        error.where = f"{path}, read by {error.where}" if error.where else str(path)
        raise


def _path(name: str, value: object, where: str) -> Path:
    if isinstance(value, str | Path):
        return Path(value)
    raise ArgumentTypeError(
        f"{name} is no path",
        where=f"{where}({name}=...)",
        got=repr(value),
        help=f'pass the file\'s name: {name}="phones.csv"',
    )


def _clients_of(path: Path) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """One mapping for each client, and what the file says of all of them."""
    if path.suffix.lower() == ".csv":
        rows: list[Mapping[str, Any]] = _csv_clients(path)
        about: Mapping[str, Any] = {}
    else:
        read = read_json(path)
        about = read if isinstance(read, Mapping) else {}
        found = about.get("clients")
        if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
            raise Problem(path).error(
                "there is no list of clients",
                got=type(read).__name__,
                help='write {"clients": [{"time_s": 0.5}, ...]}',
            )
        rows = found
    for key in about:
        if key not in ("clients", "unit", "period_s"):
            raise UnknownNameError.of("key", key, ("clients", "unit", "period_s"), where=str(path))
    # A cell of a table holds no list, so there are no windows in CSV.
    is_csv = path.suffix.lower() == ".csv"
    known = ("client", *_COLUMNS[:-1]) if is_csv else _COLUMNS
    for name in {key: None for row in rows for key in row}:
        if name not in known:
            raise UnknownNameError.of("column", name, known, where=str(path))
    if not rows:
        raise Problem(path).error("there are no clients", got="no row", help="add one for each")
    return rows, about


def _csv_clients(path: Path) -> list[Mapping[str, Any]]:
    by_client: dict[int, Mapping[str, Any]] = {}
    for line, row in read_csv(path):
        client = _whole(path, line, row)
        if client in by_client:
            problem = Problem(path, f"line {line}")
            raise problem.error("a client comes twice", got=str(client), help="take one out")
        by_client[client] = {
            key: _parsed(path, line, key, text) for key, text in row.items() if key != "client"
        }
    missing = next((k for k in range(len(by_client)) if k not in by_client), None)
    if missing is not None:
        help = f"number the {len(by_client)} clients from 0"
        raise Problem(path).error(f"client {missing} is missing", got="a gap", help=help)
    return [by_client[client] for client in range(len(by_client))]


def _windows_of(path: Path, num_clients: int) -> _Windows:
    windows: _Windows = [[] for _ in range(num_clients)]
    for line, row in read_csv(path):
        client = _whole(path, line, row)
        if client >= num_clients or row.keys() != {"client", "start_s", "end_s"}:
            raise Problem(path, f"line {line}").error(
                "this window belongs to no client",
                got=", ".join(f"{key} = {text}" for key, text in row.items()),
                help=f"the columns are client, start_s, end_s; clients are 0 to {num_clients - 1}",
            )
        ends = [_parsed(path, line, key, row[key]) for key in ("start_s", "end_s")]
        windows[client].append(ends)
    if not any(windows):
        help = "add a row for each window, or leave availability out: then all are always there"
        raise Problem(path).error("there are no windows", got="no row", help=help)
    return windows


def _whole(path: Path, line: int, row: Mapping[str, str]) -> int:
    text = row.get("client", "")
    if text.isdecimal() and len(text) < 11:
        return int(text)
    raise Problem(path, f"line {line}").error(
        "there is no client's number", got=repr(text), help="clients are numbered from 0"
    )


def _parsed(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        problem = Problem(path, f"line {line}")
        raise problem.error(f"{column} is no number", got=repr(text), help="write 1.5") from None


def _column(path: Path, rows: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    """What every client has of this column, ``None`` where none has it."""
    if not any(name in row for row in rows):
        return None
    for client, row in enumerate(rows):
        if name not in row:
            raise Problem(path, f"client {client}").error(
                f"{name} is missing", got=repr(dict(row)), help="all clients have it, or none"
            )
    return [row[name] for row in rows]


def _number(path: Path, row: Mapping[str, Any], client: int, name: str) -> float:
    if name not in row:
        problem = Problem(path, f"client {client}")
        raise problem.error(f"{name} is missing", got=repr(dict(row)), help=f"add its {name}")
    return check_positive(name, row[name], where=f"{path}, client {client}")


def _unit(unit: Unit, where: str) -> Unit:
    if unit not in _UNITS:
        raise UnknownNameError.of("unit", str(unit), _UNITS, where=where)
    return unit


def _count(wanted: int | None, found: int, where: str) -> int:
    return found if wanted is None else check_count("num_clients", wanted, where=where)


def _in_order(path: Path, fields: Sequence[str]) -> list[Mapping[str, Any]]:
    """The entries of a mapping from client to fields, in the order of the clients' numbers."""
    found = read_json(path)
    entries = found if isinstance(found, Mapping) else {}
    complete = [
        isinstance(row, Mapping) and all(field in row for field in fields)
        for row in entries.values()
    ]
    if not entries or not all(complete) or not all(key.isdecimal() for key in entries):
        raise Problem(path).error(
            "this is not such a trace",
            got=type(found).__name__,
            help=f'write {{"1": {{{", ".join(f"{chr(34)}{f}{chr(34)}: ..." for f in fields)}}}, ...}}',
        )
    by_number: Callable[[str], int] = int
    return [entries[key] for key in sorted(entries, key=by_number)]


def _fedscale_windows(
    path: Path, row: Mapping[str, Any], client: int
) -> tuple[list[list[float]], float]:
    """A client's windows and their period; empty ones are left out, those that overlap are one."""
    where = f"{path}, client {client}"
    period = check_positive("finish_time", row["finish_time"], where=where)
    starts, ends = row["active"], row["inactive"]
    if not isinstance(starts, list) or not isinstance(ends, list) or len(starts) != len(ends):
        raise Problem(path, f"client {client}").error(
            "active and inactive do not belong together",
            got=f"{starts!r:.40} and {ends!r:.40}",
            help="they are lists of the same length",
        )
    lows = [check_number("active", start, where=where, minimum=0) for start in starts]
    highs = [check_number("inactive", end, where=where) for end in ends]
    joined: list[list[float]] = []
    for low, high in sorted(zip(lows, highs, strict=True)):
        if high < low or low > period:
            raise Problem(path, f"client {client}").error(
                "a window ends before it begins, or begins after finish_time",
                got=f"active {low:g}, inactive {high:g}, finish_time {period:g}",
                help="active <= inactive, and active <= finish_time",
            )
        high = min(high, period)
        if joined and low <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], high)
        elif low < high:
            joined.append([low, high])
    return joined, period
