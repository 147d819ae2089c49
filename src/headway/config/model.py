"""The shape of a configuration: its sections, their keys, their kinds and defaults.

Strict: text is not taken for a number, and an unknown key is an error. What an algorithm, data
set, population, partitioner or model takes is not written down here: those tables hold a name and
the options of the function that has this name, and are checked against its signature.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

__all__ = ["Choice", "Config", "Section"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A table with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(BaseModel):
    """A table that names something, and holds the options of what it names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(description="Which one.")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """What goes to the function that is named."""
        return dict(self.__pydantic_extra__ or {})


class TaskChoice(BaseModel):
    """What is trained."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    kind: Literal["learning", "quadratic", "null"] = Field(
        default="learning",
        description="A model on data (the sections data, model and local), or a task without any.",
    )

    @property
    def options(self) -> dict[str, Any]:
        """What goes to the function that makes the task."""
        return dict(self.__pydantic_extra__ or {})


class DataChoice(Choice):
    """The examples, and who holds which of them. Further keys are options of the data set."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Share that becomes the test set. By default 0.2, or the data set's own.",
    )
    seed: Seed = Field(
        default=0,
        description="Chooses the split and the partition, which are the same for all runs.",
    )
    server_examples: Count | None = Field(
        default=None,
        description="How many training examples the server keeps, and no client gets, for "
        "algorithms that judge by them (zeno).",
    )
    partition: Choice = Field(description="How the examples are divided among clients.")


_NUMBERS = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]}
Numbers = Annotated[Any, WithJsonSchema(_NUMBERS)]
"""One number, or a list with one for each client; who takes it checks it."""

Leaving = Literal["finish", "lose"]
_LEAVING = "What becomes of a job that outlasts its client's hours: it ends, or it is lost."


class Link(Section):
    """How clients are connected: what a job moves takes time."""

    down_bps: Numbers = Field(
        description="Bandwidth to the client, in bits per second: one number, or a list with one "
        "for each client."
    )
    up_bps: Numbers = Field(description="Bandwidth from the client, likewise.")
    latency_s: Numbers = Field(
        default=0.0, description="What each way takes on top, in virtual seconds, likewise."
    )


class Windows(Section):
    """When clients may start: a list of windows for each of them."""

    spans: list[list[list[float]]] = Field(
        description="For each client its [start, end] pairs in virtual seconds, such as "
        "[[[0.0, 8.0]], [[12.0, 24.0]]]."
    )
    period_s: Numbers = Field(
        default=None, description="After which they repeat; by default they come once."
    )
    leaving: Leaving = Field(default="finish", description=_LEAVING)


class Diurnal(Section):
    """When clients may start: some hours of each day, for each client its own."""

    open_s: Positive = Field(description="How long each day, in virtual seconds.")
    period_s: Positive = Field(default=86_400.0, description="Length of a day.")
    spread: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="Over which share of the day the beginnings lie."
    )
    leaving: Leaving = Field(default="finish", description=_LEAVING)


class Arrival(Section):
    """Clients that come by themselves, each for one job; at most `run.concurrency` train."""

    rate_per_s: Positive = Field(description="How many in a virtual second, on average.")
    process: Literal["poisson", "regular"] = Field(
        default="poisson",
        description="With exponential times between them, or one after each interval.",
    )


class PopulationChoice(Choice):
    """How fast the clients are, and when they are there. Further keys are its own options."""

    name: str = Field(default="constant", description="Which one.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Probability that a job never returns."
    )
    away_s: Positive | None = Field(
        default=None,
        description="How long a client stays away after it dropped a job, in virtual seconds; by "
        "default it asks for the next one at once.",
    )
    timeout_s: Positive | None = Field(
        default=None,
        description="How long the server waits for a job, in virtual seconds, until it gives it up; "
        "by default for ever.",
    )
    link: Link | None = Field(
        default=None, description="The network: a table with down_bps, up_bps and latency_s."
    )
    windows: Windows | None = Field(
        default=None, description="When clients may start: a table with spans and period_s."
    )
    diurnal: Diurnal | None = Field(
        default=None, description="When clients may start: a table with open_s, instead of windows."
    )
    arrival: Arrival | None = Field(
        default=None, description="Clients that come by themselves: a table with rate_per_s."
    )
    slowdown: dict[str, Positive] = Field(
        default_factory=dict, description='Factors for single clients, such as { "0" = 5.0 }.'
    )


class Contender(Choice):
    """One algorithm of a comparison. Further keys are options of the algorithm."""

    concurrency: Count | None = Field(
        default=None, description="Instead of `run.concurrency`, for this algorithm."
    )
    scheduler: Choice | None = Field(
        default=None, description="Instead of `[scheduler]`: a name, or a table with its options."
    )
    local: dict[str, Any] = Field(
        default_factory=dict, description="Instead of the same keys of `[local]`."
    )


class Target(Section):
    """A value that a metric is to reach."""

    metric: str = Field(description="Its name, such as accuracy or loss.")
    value: Annotated[float, Field(allow_inf_nan=False)] = Field(description="What it is to reach.")
    direction: Literal["max", "min"] | None = Field(
        default=None,
        description="Whether larger (max) or smaller (min) is better; told from the name.",
    )


class Every(Section):
    """The distance between two evaluations or two checkpoints, by exactly one clock."""

    updates: Count | None = Field(default=None, description="After so many updates.")
    versions: Count | None = Field(default=None, description="After so many model changes.")
    virtual_time_s: Positive | None = Field(
        default=None, description="After so many virtual seconds."
    )


class Run(Section):
    """How the run goes."""

    concurrency: Count | None = Field(
        default=None, description="How many clients train at the same time; by default all."
    )
    evaluate_every: Every = Field(
        default=Every(updates=100),
        description="The distance between evaluations: updates, or { versions = 10 } or "
        "{ virtual_time_s = 5.0 }.",
    )
    checkpoint_every: Every | None = Field(
        default=None,
        description="The distance between checkpoints, likewise; by default none are written. With "
        "them, `headway simulate RUN --resume` goes on with a run that was killed.",
    )
    device: str = Field(default="cpu", description="Where models live and train.")
    record: Literal["nothing", "events", "payloads"] = Field(
        default="events",
        description="What the log keeps; with payloads the run can be replayed.",
    )
    threads: Count | None = Field(
        default=None,
        description="Threads of torch; by default its own choice. Results may differ in the last "
        "bits between numbers of threads.",
    )

    @field_validator("evaluate_every", "checkpoint_every", mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return {"updates": value} if is_number else value


class Server(Section):
    """A server that takes time for every update."""

    apply_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Virtual seconds for each update; those that come meanwhile wait.",
    )
    inbox: Literal["arrival", "freshest", "priority"] = Field(
        default="arrival",
        description="Which of those that wait is next: the first that came, the one with the "
        "highest base version (freshest), or of the client with most examples (priority).",
    )


class Staleness(Section):
    """Staleness that is drawn, uniformly from 0 on, instead of emerging from the clients' times."""

    max_staleness: Annotated[int, Field(ge=0)] = Field(
        description="The largest that is drawn, in versions. One client trains at a time, virtual "
        "time says nothing, and the results are labelled."
    )


class Execution(Section):
    """How clients are trained; it changes no result but for the last digits."""

    mode: Literal["auto", "groups", "one_by_one"] = Field(
        default="auto",
        description="Jobs in flight together (groups), one by one, or by the model's size (auto).",
    )
    group_size: Count | None = Field(
        default=None, description="How many jobs at most in a group; by default by the same rule."
    )
    processes: Count = Field(
        default=1, description="How many processes train; others are started for the run."
    )
    compile: bool = Field(
        default=False, description="Groups with torch.compile, where there is a C++ compiler."
    )


class Runtime(Section):
    """The workers of `headway run`."""

    name: Literal["processes"] = Field(
        default="processes", description="Where they are: processes on this machine."
    )
    num_workers: Count = Field(default=2, description="How many.")
    slowdown: dict[str, Annotated[float, Field(ge=1, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description='Factors for single workers, such as { "0" = 5.0 }: their jobs take so many '
        "times as long. To study stragglers.",
    )
    prefetch: bool = Field(
        default=False, description="Whether a worker gets its next job while it works on one."
    )
    start_method: Literal["spawn", "forkserver"] = Field(
        default="spawn", description="How the processes are started."
    )
    consistency: Literal["snapshot", "hogwild"] = Field(
        default="snapshot",
        description="Workers get one version of the model, or read the server's own vector while it "
        "changes (hogwild).",
    )
    checkpoint_dir: str | None = Field(
        default=None,
        description="Where checkpoints are written; a run that finds some there goes on from the "
        "newest. Of several runs each has a folder in it. By default none are written.",
    )
    checkpoint_frequency: Count = Field(
        default=1000, description="From one checkpoint to the next, in versions."
    )


class Serving(Section):
    """What `headway server` does about stale updates; of other commands nobody reads it."""

    staleness_policy: list[str] = Field(
        default_factory=list,
        description="As of `headway.ParameterServer`: adaptive_lr, delay_compensation, filter, "
        "momentum_correction, ssp; several in a list.",
    )
    staleness_lr_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Of the policy adaptive_lr; by default 0.9."
    )
    max_staleness: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Later updates are rejected, in versions; with ssp, how many jobs a worker may be "
        "ahead.",
    )

    @field_validator("staleness_policy", mode="before")
    @classmethod
    def _bare_policy(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Compression(Section):
    """What travels between `headway server` and `headway worker`, where they share no memory."""

    pushes: Literal["auto", "none", "bf16", "int8", "topk"] = Field(
        default="none",
        description="How a worker writes its updates, with error feedback: a name, or as its link "
        "needs (auto).",
    )
    offered: list[Literal["none", "bf16", "int8", "topk"]] = Field(
        default=["none", "bf16", "int8", "topk"],
        description="What a server's workers may compress with.",
    )
    pulls: Literal["exact", "whole", "bf16", "int8", "topk"] = Field(
        default="exact",
        description="How models come to workers that compress: as differences without loss (exact) "
        "or written so, or whole.",
    )


class Stop(Section):
    """When a run ends: the first that is reached."""

    updates: Count | None = Field(default=None, description="Updates that reached the server.")
    versions: Count | None = Field(default=None, description="Changes of the model.")
    virtual_time_s: Positive | None = Field(default=None, description="Virtual seconds.")
    wall_time_s: Positive | None = Field(
        default=None, description="Real seconds; the only one that is not repeatable."
    )
    target: Target | None = Field(default=None, description="A value that a metric is to reach.")


class Config(Section):
    """A configuration of `headway run`, `headway simulate` or `headway compare`."""

    seed: Seed = Field(default=0, description="Of every random stream of a run (simulate).")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        default=[0, 1, 2], description="One run of each algorithm for each of them (compare)."
    )
    target: Target | None = Field(
        default=None,
        description="What time and work are measured to (compare); by default `stop.target`. "
        "It ends no run.",
    )
    task: TaskChoice = Field(default=TaskChoice())
    data: DataChoice | None = Field(default=None)
    model: Choice | None = Field(
        default=None,
        description="Further keys are options of the model; its number of inputs and classes "
        "comes from the data.",
    )
    local: dict[str, Any] | None = Field(
        default=None, description="How a client trains: the options of `headway.LocalTraining`."
    )
    population: PopulationChoice = Field(default=PopulationChoice())
    run: Run = Field(default=Run())
    scheduler: Choice = Field(
        default=Choice(name="random_order"),
        description="Who trains next. Further keys are options of the scheduler.",
    )
    server: Server = Field(default=Server())
    runtime: Runtime | None = Field(default=None)
    execution: Execution = Field(default=Execution())
    staleness: Staleness | None = Field(default=None)
    compression: Compression | None = Field(default=None)
    serving: Serving | None = Field(default=None)
    stop: Stop = Field(default=Stop())
    algorithm: Choice | None = Field(
        default=None,
        description="What an update is worth (simulate). Further keys are its options.",
    )
    algorithms: dict[str, Contender] = Field(
        default_factory=dict, description="The algorithms to compare, by label (compare)."
    )
