"""What is of the wrong kind is refused where it is given, in words, and never by Python's own errors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch

import headway
from headway.core.errors import ArgumentTypeError, ConfigurationError, DataError, UsageError
from tests.unit.training import server_kit as kit

WRONG = ("no", 5, -1, 2.5, math.nan, [1], {}, None, True, torch.nn.Linear, object())

NUMBERS = (5, 2.5)
ALLOWED: dict[str, tuple[Any, ...]] = {
    # By the argument, what of the above is right.
    "server_address": ("no",),
    "local_batch_size": (5,),
    "update_frequency": (5,),
    "local_epochs": (*NUMBERS, None),
    "name": ("no",),
    "prefetch": (True,),
    "insecure": (True,),
    "shared_memory": (True,),
    "tls": (None,),
    "compression": (None,),
    "connect_timeout_s": NUMBERS,
    "retry": (None,),
    "host": ("no",),
    "port": (5,),
    "algorithm": (None,),
    "max_staleness": (5, None),
    "server_optimizer": (None,),
    "learning_rate": (None,),
    "concurrency": (5, None),
    "checkpoint_dir": ("no", None),
    "checkpoint_frequency": (5,),
    "folder": ("no", None),
    "pulls": (None,),
    "max_workers": (5,),
    "max_rejections": (5, None),
    "drain_s": NUMBERS,
    "seed": (5,),
    "num_workers": (5,),
    "slowdown": ({},),
    "start_method": (),
    "timeouts": (),
    "certificate": ("no",),
    "key": ("no",),
    "client_ca": ("no", None),
    "ca": ("no", None),
    "server_name": ("no", None),
    "epochs": NUMBERS,
    "log_frequency": (5,),
    "shuffle": (True,),
    "drop_last": (True,),
    "shard": (None,),
    "batch_size": (5,),
    "timeout_s": (*NUMBERS, None),
}
OF_THEIR_OWN: dict[tuple[type, str], tuple[Any, ...]] = {
    # What it means there is not what it means elsewhere.
    (headway.AsyncWorker, "model"): (None,),
    (headway.AsyncWorker, "token"): ("no", None),
    (headway.ParameterServer, "token"): ("no", None),
    (headway.ParameterServer, "compression"): (),
    (headway.ParameterServer, "host"): (),
    (headway.WorkerTLS, "certificate"): (None, "no"),
    (headway.WorkerTLS, "key"): (None, "no"),
}
OF_TRAINING: dict[str, tuple[Any, ...]] = {
    # What a batch holds is seen when it comes.
    "data": ([1], {}),
    "dataloader": (None, [1], {}),
    "optimizer": (None,),
    "seed": (5, None),
}


def server(**options: Any) -> headway.ParameterServer:
    return headway.ParameterServer(options.pop("model", kit.line()), **{"port": 0, **options})


def worker(**options: Any) -> headway.AsyncWorker:
    return headway.AsyncWorker(options.pop("server_address", "127.0.0.1"), **options)


def server_tls(**options: Any) -> headway.ServerTLS:
    return headway.ServerTLS(**{"certificate": "a.pem", "key": "b.pem", **options})


def processes(**options: Any) -> headway.Processes:
    return headway.Processes(options.pop("num_workers", 2), **options)


MAKERS: dict[type, Callable[..., object]] = {
    headway.ParameterServer: server,
    headway.AsyncWorker: worker,
    headway.Processes: processes,
    headway.ServerTLS: server_tls,
    headway.WorkerTLS: headway.WorkerTLS,
}


def taken(call: Callable[[Any], object], right: Sequence[Any]) -> list[Any]:
    """Which of the wrong values a call takes; those are left out that are right for it."""
    wrong = [v for v in WRONG if not any(type(v) is type(r) and v == r for r in right)]
    return [value for value in wrong if not is_refused(partial(call, value))]


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except (UsageError, DataError):
        return True
    return False


@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls in MAKERS for name in inspect.signature(cls).parameters],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_what_is_of_the_wrong_kind_is_refused_when_it_is_made(cls, name):
    right = OF_THEIR_OWN.get((cls, name), ALLOWED.get(name, ()))
    assert taken(lambda value: MAKERS[cls](**{name: value}), right) == []


def test_what_a_wrong_value_is_called_and_what_to_write():
    with pytest.raises(ArgumentTypeError) as told:
        worker(shared_memory="no")
    assert str(told.value).splitlines() == [
        "`shared_memory` must be True or False",
        "  in     AsyncWorker(shared_memory=...)",
        "  got    'no'",
        "  help   write shared_memory=True, for example",
    ]
    with pytest.raises(ArgumentTypeError, match="WorkerTLS itself"):
        worker(tls=headway.WorkerTLS)
    with pytest.raises(ArgumentTypeError, match=r'tls=headway\.ServerTLS\(certificate="\.\.\."'):
        server(tls="server.pem")
    with pytest.raises(ConfigurationError, match="`checkpoint_dir` is empty"):
        server(checkpoint_dir="")


@pytest.mark.parametrize("make", [server, worker])
def test_a_model_that_has_no_shape_yet_or_cannot_be_made_is_refused_with_what_to_do(make):
    with pytest.raises(ArgumentTypeError, match="Linear, which needs in_features, out_features"):
        make(model=torch.nn.Linear)
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(4, 1))
    with pytest.raises(ConfigurationError, match=r"no shape yet(.|\n)*0\.weight, 0\.bias"):
        make(model=lazy)
    lazy(torch.ones(2, 3))
    make(model=lazy)
    make(model=partial(torch.nn.Linear, 3, 1))


@pytest.mark.parametrize(
    "name",
    ["dataset", "dataloader", "epochs", "optimizer", "loss_fn", "metrics", "log_frequency",
     "shuffle", "drop_last", "shard", "seed"],
)  # fmt: skip
def test_a_training_is_refused_before_anybody_connects(name):
    nobody = headway.AsyncWorker("127.0.0.1:1")
    given = {"dataset": kit.regression(), "loss_fn": "mse", "optimizer": "sgd"}
    if name == "dataloader":
        del given["dataset"]
    right = OF_TRAINING.get(name, ALLOWED.get(name, ()))
    assert taken(lambda value: nobody.train(**{**given, name: value}), right) == []


class OptimizedModule(torch.nn.Module):
    """What ``torch.compile`` returns, as far as it is looked at here: torch's own takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = torch.nn.Linear(2, 1)


@pytest.mark.parametrize("make", [server, worker])
def test_a_wrapped_model_is_refused_for_its_names(make):
    with pytest.raises(ConfigurationError, match=r"_orig_mod\.weight(.|\n)*model\.compile\(\)"):
        make(model=OptimizedModule())
    with pytest.raises(ConfigurationError, match=r"DataParallel, with module\.weight"):
        make(model=torch.nn.DataParallel(torch.nn.Linear(2, 1)))


@pytest.mark.parametrize("make", [server, worker])
@pytest.mark.parametrize(
    ("model", "help"),
    [
        (torch.nn.ModuleList([torch.nn.Linear(2, 1)]), r"torch\.nn\.Sequential\(\*parts\)"),
        (torch.nn.ModuleDict({"head": torch.nn.Linear(2, 1)}), r"forward\(inputs\)"),
        (lambda: torch.nn.ParameterList([torch.zeros(2)]), r"forward\(inputs\)"),
    ],
)
def test_a_model_without_a_forward_is_refused(make, model, help):
    with pytest.raises(ConfigurationError, match=rf"has no forward(.|\n)*{help}") as told:
        make(model=model)
    assert told.value.where in ("ParameterServer(model=...)", "AsyncWorker(model=...)")


class CalledItself(torch.nn.Linear):
    __call__ = torch.nn.functional.linear
    forward = torch.nn.Module.forward


@pytest.mark.parametrize("make", [server, worker])
def test_a_forward_of_whatever_kind_is_taken(make):
    shown = torch.nn.ModuleList([torch.nn.Linear(2, 1)])
    shown.forward = shown[0].forward
    for model in (shown, CalledItself(2, 1)):
        make(model=model)


def test_why_a_model_cannot_be_described_has_no_empty_place():
    model = torch.nn.Sequential(torch.nn.Linear(2, 1))
    model[0].register_forward_hook(lambda *_: None)
    with server(model=model) as serving, pytest.raises(ConfigurationError) as told:
        headway.AsyncWorker(serving.address).train(
            dataset=(INPUTS, TARGETS), optimizer="sgd", loss_fn="mse"
        )
    assert told.value.got.endswith("it has hooks (0)")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (torch.nn.Linear(2, 1, device="meta"), "weight on the meta device"),
        (torch.nn.Linear(2, 1, dtype=torch.complex64), "weight of torch.complex64"),
        (torch.nn.Linear(2, 1).requires_grad_(False), "no parameter of the model requires"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(model, words):
    with pytest.raises(ConfigurationError, match=words):
        server(model=model)


def test_a_port_beside_an_address_that_has_another_is_refused():
    with pytest.raises(ConfigurationError, match="port is given twice"):
        worker(server_address="localhost:5001", port=6000)
    assert worker(server_address="localhost", port=6000).address == "localhost:6000"
    assert worker(server_address="localhost:6000", port=6000).address == "localhost:6000"


INPUTS, TARGETS = torch.ones(4, 2), torch.ones(4, 1)


@pytest.mark.parametrize(
    ("dataset", "help"),
    [
        ((INPUTS.numpy(), TARGETS.numpy()), "torch.from_numpy"),
        ([(INPUTS, TARGETS)] * 2, "dataloader="),
        (INPUTS, r"dataset=\(inputs, targets\)"),
    ],
)
def test_data_in_another_form_come_with_the_form_that_is_wanted(dataset, help):
    with pytest.raises(ArgumentTypeError, match=help):
        headway.AsyncWorker("127.0.0.1:1").train(dataset=dataset, optimizer="sgd")


@pytest.fixture(scope="module")
def serving() -> Iterator[headway.ParameterServer]:
    with kit.server(kit.line()) as started:
        yield started


@pytest.mark.parametrize("name", ["batch_size", "metrics", "loss_fn", "data"])
def test_an_evaluation_of_the_wrong_kind_is_refused(serving, name):
    given = {"data": kit.regression(), "metrics": "loss", "loss_fn": "mse"}
    measuring = kit.worker(serving)
    right = OF_TRAINING.get(name, ALLOWED.get(name, ()))
    assert taken(lambda value: measuring.evaluate(**{**given, name: value}), right) == []


@pytest.mark.parametrize("name", ["folder", "checkpoint_dir", "label", "seed", "consistency"])
def test_a_run_is_refused_before_a_process_starts(name):
    right = {"label": ("no", None), "consistency": (), "seed": (5,)}.get(name, ("no", None))
    given = {"stop": headway.until(updates=1), "runtime": headway.Processes(1)}
    task = headway.tasks.quadratic(num_clients=2)

    def started(value: Any) -> None:
        headway.run(task, headway.algorithms.async_delta(), **{**given, name: value})

    assert taken(started, right) == []


@pytest.mark.parametrize("timeout_s", ["5", -1.0, math.nan, [1], True])
def test_a_time_to_wait_is_a_number_of_seconds(serving, timeout_s):
    with pytest.raises(UsageError, match="`timeout_s`"):
        serving.wait_for_workers(timeout_s=timeout_s)


def test_an_error_of_the_users_model_says_which_worker_and_which_batch_it_was(serving):
    inputs, targets = kit.regression()
    batches = [(inputs[:4], targets[:4]), (inputs[:4, :1], targets[:4])]
    training = kit.worker(serving, name="ada")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as told:
        training.train(dataloader=batches, loss_fn="mse", optimizer="sgd")
    (note,) = told.value.__notes__
    assert note.startswith("Headway: in AsyncWorker.train of ada, batches begun: 2, updates: ")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as told:
        training.evaluate(batches, metrics="loss", loss_fn="mse")
    assert told.value.__notes__ == ["Headway: in AsyncWorker.evaluate, at batch 2"]


def test_a_name_of_the_errors_that_is_not_at_the_top_is_pointed_to():
    with pytest.raises(AttributeError, match=r"Did you mean: 'errors\.HeadwayError'\?"):
        _ = headway.HeadwayError


@pytest.mark.parametrize(
    ("metric", "got"),
    [(lambda outputs, _: outputs, "a Tensor of shape [24, 1]"), (lambda *_: None, "None")],
)
def test_a_metric_of_the_user_that_is_no_number_is_named(serving, metric, got):
    with pytest.raises(ArgumentTypeError, match="metric `mine` must be one number") as told:
        kit.worker(serving).evaluate(kit.regression(), metrics={"mine": metric})
    assert told.value.got == got


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda *_: 1.0, "the loss must be a tensor"),
        (lambda *_: None, "got    a NoneType"),
        (lambda outputs, _: outputs.mean().detach(), "the loss has no gradient"),
    ],
)
def test_a_loss_that_no_gradient_can_be_taken_of_is_refused(serving, loss, words):
    with pytest.raises(UsageError, match=words):
        kit.worker(serving).train(dataset=kit.regression(), loss_fn=loss, optimizer="sgd")


def test_a_staleness_policy_that_cannot_be_called_with_a_staleness():
    with pytest.raises(ArgumentTypeError, match="that function is no staleness policy"):
        server(staleness_policy=lambda: 1.0)
    with pytest.raises(ArgumentTypeError, match="a metric's name is text"):
        headway.AsyncWorker("127.0.0.1:1").train(kit.regression(), metrics={5: max})
