"""A model, a loss, data for each client, a test set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from headway.core import ParameterLayout
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.task.batched import GroupTrainer
from headway.task.clients import ClientData, Clients, server_set, test_set
from headway.task.contract import Start
from headway.task.evaluation import Evaluator, choose_metrics
from headway.task.fingerprint import data_fingerprint
from headway.task.forward import Forward
from headway.task.local import LocalTraining
from headway.task.metrics import Loss, Metric, choose_loss
from headway.task.randomness import own_randomness
from headway.task.reference import ServerGradient, no_server_data
from headway.task.replica import Replica
from headway.task.trainer import Trainer

if TYPE_CHECKING:
    from headway.core import Algorithm, Buffers

__all__ = ["Task"]

_CPU = torch.device("cpu")


@final
class Task:
    """What is trained: a model and a loss, on the data of many clients.

    Args:
        model: A function without arguments that makes the module, called with torch's generators
            seeded by the run's seed; or a module, which is copied and then starts every run alike.
            Parameters that require no gradient stay as they are.
        loss: ``(outputs, targets) -> mean loss of the batch``, or ``"cross_entropy"`` or ``"mse"``.
        train: :class:`headway.data.Federated`, anything else with ``num_clients`` and
            ``client(i) -> (inputs, targets)``, or a sequence of such pairs. Never written to.
        test: ``(inputs, targets)``, or a :class:`headway.data.Dataset`. ``None``: that of ``train``.
        local: How a client trains.
        metrics: Names out of ``"accuracy"``, ``"bits"`` (the cross entropy in bits) and
            ``"loss"``, or a mapping of name to function ``(outputs, targets) -> float``, called
            with the outputs for the whole test set.
        name: What reports call the task.
        test_batch_size: Examples in a forward pass of the evaluation, at least 1.
        server_data: What the server may take gradients on, for algorithms that judge by them
            (``zeno``): ``(inputs, targets)`` or a :class:`headway.data.Dataset`, of which no client
            has a part. ``None``: that of ``train``, if there is any.

    Raises:
        ArgumentTypeError: A value of the wrong kind.
        ConfigurationError: A value that cannot be used, a name that is not known among them.
        DataError: No clients, no test examples, or tensors that do not fit each other.

    Example:
        >>> from headway import models
        >>> inputs, targets = torch.eye(4), torch.tensor([0, 1, 0, 1])
        >>> task = Task(
        ...     models.softmax_regression(inputs=4, classes=2),
        ...     "cross_entropy",
        ...     train=[(inputs[:2], targets[:2]), (inputs[2:], targets[2:])],
        ...     test=(inputs, targets),
        ...     local=LocalTraining(epochs=5, batch_size=2),
        ... )
        >>> task.num_clients, task.num_examples(0)
        (2, 2)
        >>> start = task.start(seed=0, device=torch.device("cpu"))
        >>> sorted(task.evaluate(start.parameters, start.buffers))
        ['accuracy', 'loss']
    """

    def __init__(
        self,
        model: Callable[[], nn.Module] | nn.Module,
        loss: str | Loss,
        train: Clients | Sequence[tuple[Tensor, Tensor]],
        test: Any = None,
        *,
        local: LocalTraining | None = None,
        metrics: str | Sequence[str] | Mapping[str, Metric] = ("accuracy", "loss"),
        name: str = "task",
        test_batch_size: int = 1024,
        server_data: Any = None,
    ) -> None:
        if not (isinstance(model, nn.Module) or callable(model)):
            raise ArgumentTypeError(
                "that is not a model",
                where="Task(model=...)",
                got=repr(model),
                expected="a function that makes a torch.nn.Module, or a module",
            )
        if local is not None and not isinstance(local, LocalTraining):
            raise ArgumentTypeError(
                "local must be a LocalTraining", where="Task(local=...)", got=repr(local)
            )
        if isinstance(test_batch_size, bool) or test_batch_size < 1:
            raise ConfigurationError(
                "test_batch_size is out of range",
                where="Task(test_batch_size=...)",
                got=test_batch_size,
                expected="a whole number of at least 1",
            )
        self._model = copy.deepcopy(model) if isinstance(model, nn.Module) else model
        self._loss_name = loss if isinstance(loss, str) else _name_of(loss)
        self._loss = choose_loss(loss)
        self._means, self._wholes = choose_metrics(metrics, self._loss)
        self._data = ClientData(train)
        self._test = test_set(test, train)
        self._server_data = server_set(server_data, train)
        self._local = local or LocalTraining()
        self._name = name
        self._test_batch_size = test_batch_size
        self._evaluators: dict[torch.device, Evaluator] = {}
        self._references: dict[torch.device, ServerGradient] = {}
        self._layout: ParameterLayout | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A pickle would tear their modules off the flat vectors that these are views of.
        return {**self.__dict__, "_evaluators": {}, "_references": {}}

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._name

    @property
    def num_clients(self) -> int:
        """How many clients there are, empty ones included."""
        return self._data.num_clients

    @property
    def local(self) -> LocalTraining:
        """How a client trains."""
        return self._local

    @property
    def layout(self) -> ParameterLayout:
        """Names and shapes of the model's parameters."""
        if self._layout is None:
            self._layout = ParameterLayout.of(self.make_module(0))
        return self._layout

    def make_module(self, seed: int) -> nn.Module:
        """Make the module, on the CPU; its initial weights depend on the seed alone.

        Raises:
            ArgumentTypeError: The function that was given makes something else.
        """
        if isinstance(self._model, nn.Module):
            return copy.deepcopy(self._model)
        with own_randomness(seed, _CPU):
            module = self._model()
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(
                "the function did not make a model",
                where="Task(model=...)",
                got=repr(module),
                expected="a torch.nn.Module",
            )
        return module

    def start(self, seed: int, device: torch.device) -> Start:
        """Make the initial model; it depends on the seed alone, not on the device.

        Args:
            seed: Of the run, at least 0.
            device: Where the tensors shall lie.
        """
        module = self.make_module(seed)
        self._layout = layout = ParameterLayout.of(module)
        parameters = layout.flatten(module).to(device)
        return Start(parameters, layout, layout.flatten_buffers(module.to(device)))

    def trainer(self, algorithm: Algorithm, device: torch.device) -> Trainer:
        """Make what does this algorithm's jobs on this device."""
        return Trainer(
            Replica(self.make_module(0), self.layout, device),
            self._data,
            loss=self._loss,
            local=self._local,
            algorithm=algorithm,
        )

    def group_trainer(
        self, algorithm: Algorithm, device: torch.device, *, compiled: bool = False
    ) -> GroupTrainer:
        """Make what does this algorithm's jobs in groups on this device.

        Its ``obstacle`` says where that cannot be done.

        Args:
            algorithm: Whose jobs.
            device: Where.
            compiled: With compiled code, as far as that can be had.
        """
        module, layout = self.make_module(0).to(device), self.layout
        model = layout.flatten(module)
        forward = Forward(module, layout, self._loss, compiled=compiled)
        first = next(i for i in range(self.num_clients) if self.num_examples(i))
        inputs, targets = (part[:2].to(device) for part in self._data.client(first))
        pair = (2, *inputs.shape), (2, *targets.shape)
        forward.probe(model.repeat(2, 1), inputs.expand(pair[0]), targets.expand(pair[1]))
        return GroupTrainer(
            forward, layout, self._data, local=self._local, algorithm=algorithm, device=device
        )

    def evaluate(self, parameters: Tensor, buffers: Buffers | None = None) -> dict[str, float]:
        """Judge a model on the test set, in eval mode, on the device where it lies.

        Args:
            parameters: Flat ``[num_params]``.
            buffers: The model's buffers.
        """
        device = parameters.device
        if device not in self._evaluators:
            self._evaluators[device] = Evaluator(
                Replica(self.make_module(0), self.layout, device),
                self._test,
                batch_size=self._test_batch_size,
                means=self._means,
                wholes=self._wholes,
            )
        return self._evaluators[device].evaluate(parameters, buffers)

    @property
    def has_reference(self) -> bool:
        """Whether there are data for the server."""
        return self._server_data is not None

    def reference_gradient(self, parameters: Tensor, buffers: Buffers | None = None) -> Tensor:
        """The gradient of the loss on all of the server's data, on the device of the parameters.

        The model is in training mode, as at the clients, but draws the same random numbers each
        time: the gradient depends on the arguments alone.

        Args:
            parameters: Flat ``[num_params]``.
            buffers: The model's buffers.

        Returns:
            Flat ``[num_params]``, valid until the next call.

        Raises:
            ConfigurationError: There are no data for the server.
        """
        if self._server_data is None:
            raise no_server_data(self._name)
        device = parameters.device
        if device not in self._references:
            self._references[device] = ServerGradient(
                Replica(self.make_module(0), self.layout, device),
                self._server_data,
                loss=self._loss,
                batch_size=self._test_batch_size,
            )
        return self._references[device].at(parameters, buffers)

    def num_examples(self, client: int) -> int:
        """How many examples a client holds; one with none never trains."""
        return self._data.num_examples(client)

    def data_fingerprint(self) -> str:
        """A checksum of the clients' data, the test set and the server's data.

        Of more than 16 MiB a sample is read, see :mod:`headway.task.fingerprint`.
        """
        return data_fingerprint(self._data, self._test, self._server_data)

    def describe(self) -> dict[str, Any]:
        """Say in plain JSON what this is, for the run folder and reports."""
        held = (
            {} if self._server_data is None else {"num_server_examples": len(self._server_data[0])}
        )
        return {
            "name": self._name,
            "model": _name_of(self._model),
            "num_params": self.layout.num_params,
            "loss": self._loss_name,
            "metrics": [*self._means, *self._wholes],
            "num_clients": self.num_clients,
            "num_examples": self._data.total(),
            "num_test_examples": len(self._test[0]),
            **held,
            "local": self._local.describe(),
        }


def _name_of(value: object) -> str:
    # A module's repr is a page; a factory's own repr says what it makes.
    if isinstance(value, nn.Module):
        return type(value).__name__
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else repr(value)
