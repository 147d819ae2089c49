"""Quadratic clients: a problem whose optimum and whose every local step are known exactly."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from headway.core import Buffers, ParameterLayout, WorkOrder
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.task import Assignment, Cancelled, ClientChain, LocalResult, LocalTraining, Start
from headway.tasks.checks import check_count, check_number

if TYPE_CHECKING:
    from headway.core import Algorithm, Receipt

__all__ = ["QuadraticTask", "quadratic"]


def quadratic(
    *,
    dim: int = 100,
    num_clients: int = 50,
    heterogeneity: float = 1.0,
    noise: float = 0.0,
    condition: float = 10.0,
    local: LocalTraining | None = None,
    dtype: torch.dtype | str = torch.float32,
    seed: int = 0,
) -> QuadraticTask:
    r"""Make a task of quadratic clients with one curvature and different centres.

    .. math:: f_i(x) = \tfrac12 (x - c_i)^T A (x - c_i), \quad c_i = c + h \, z_i, \quad
              f(x) = \frac1N \sum_i f_i(x), \quad x^* = \frac1N \sum_i c_i

    ``A`` is diagonal with eigenvalues spaced evenly in the logarithm from ``1 / condition`` to 1,
    ``c`` and ``z_i`` are standard normal. A local step uses the exact gradient
    :math:`A (x - c_i)`, plus ``noise`` times a standard normal vector; an epoch is one step. A
    client holds one example, and a step goes through it once.

    Args:
        dim: Length of ``x``, at least 1.
        num_clients: ``N``, at least 1. Memory: ``num_clients`` vectors.
        heterogeneity: ``h``, at least 0: how far the clients' optima lie apart.
        noise: Standard deviation of each component of the gradient's noise, at least 0.
        condition: Largest over smallest eigenvalue of ``A``, at least 1.
        local: Steps and learning rate, proximal term and clipping. The optimizer must be plain
            SGD; batches have no meaning. By default one step with a learning rate of 0.1.
        dtype: ``float32`` or ``float64``.
        seed: Chooses ``c`` and ``z_i``, at least 0; the run's seed chooses where it starts.

    Raises:
        ConfigurationError: A value outside its range, or an optimizer other than plain SGD.

    Example:
        >>> task = quadratic(dim=5, num_clients=3)
        >>> task.evaluate(task.optimum, None)
        {'loss': 0.0, 'distance': 0.0}
    """
    return QuadraticTask(
        dim=dim,
        num_clients=num_clients,
        heterogeneity=heterogeneity,
        noise=noise,
        condition=condition,
        local=local or LocalTraining(steps=1),
        dtype=dtype,
        seed=seed,
    )


@final
class QuadraticTask:
    """What :func:`quadratic` returns; an :class:`~headway.task.Objective`.

    Attributes:
        curvature: The diagonal of ``A``, ``[dim]``.
        centers: ``c_i``, ``[num_clients, dim]``.
        optimum: ``x*``, ``[dim]``.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_clients: int,
        heterogeneity: float,
        noise: float,
        condition: float,
        local: LocalTraining,
        dtype: torch.dtype | str,
        seed: int,
    ) -> None:
        where = "tasks.quadratic"
        check_count(where, "dim", dim)
        check_count(where, "num_clients", num_clients)
        check_number(where, "heterogeneity", heterogeneity, least=0.0)
        check_number(where, "noise", noise, least=0.0)
        check_number(where, "condition", condition, least=1.0)
        check_count(where, "seed", seed, least=0)
        _check_local(local)
        self._dtype = _dtype(dtype)
        self._settings = {
            "dim": dim,
            "num_clients": num_clients,
            "heterogeneity": heterogeneity,
            "noise": noise,
            "condition": condition,
            "dtype": str(self._dtype).removeprefix("torch."),
            "seed": seed,
        }
        self._noise = noise
        self._local = local
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(num_clients + 1, dim, generator=generator, dtype=torch.float64)
        # From the largest down, so that a single eigenvalue is 1.
        self.curvature = torch.logspace(0, 1, dim, base=1.0 / condition, dtype=torch.float64)
        self.curvature = self.curvature.to(self._dtype)
        self.centers = (drawn[0] + heterogeneity * drawn[1:]).to(self._dtype)
        self.optimum = self.centers.to(torch.float64).mean(dim=0).to(self._dtype)

    @property
    def name(self) -> str:
        """What reports call it."""
        return "quadratic"

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return len(self.centers)

    @property
    def local(self) -> LocalTraining:
        """How a client trains."""
        return self._local

    def start(self, seed: int, device: torch.device) -> Start:
        """Start at a standard normal vector that depends on the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(len(self.optimum), generator=generator, dtype=torch.float64)
        layout = ParameterLayout.flat(len(self.optimum), self._dtype)
        return Start(first.to(device=device, dtype=self._dtype), layout)

    def trainer(self, algorithm: Algorithm, device: torch.device) -> QuadraticTrainer:
        """Make what does this algorithm's jobs on this device."""
        return QuadraticTrainer(self, algorithm, self._noise, device)

    def evaluate(self, parameters: Tensor, buffers: Buffers | None = None) -> dict[str, float]:
        """Return ``f(x) - f*`` as ``"loss"`` and ``||x - x*||`` as ``"distance"``."""
        apart = parameters.detach().cpu().double() - self.optimum.double()
        loss = 0.5 * (self.curvature.double() * apart * apart).sum()
        return {"loss": float(loss), "distance": float(torch.linalg.vector_norm(apart))}

    @property
    def has_reference(self) -> bool:
        """Always: the server knows the objective."""
        return True

    def reference_gradient(self, parameters: Tensor, buffers: Buffers | None = None) -> Tensor:
        """The exact gradient of the objective, ``A (x - x*)``."""
        device = parameters.device
        return self.curvature.to(device) * (parameters - self.optimum.to(device))

    def num_examples(self, client: int) -> int:
        """One each."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Say in plain JSON what this is."""
        return {"name": self.name, **self._settings, "local": self._local.describe()}


@final
class QuadraticTrainer:
    """Takes local steps on quadratics.

    Without noise and anything else that touches single steps, ``k`` of them are one expression:
    ``x_k - c = (1 - learning_rate * A)**k * (x_0 - c)``.
    """

    def __init__(
        self, task: QuadraticTask, algorithm: Algorithm, noise: float, device: torch.device
    ) -> None:
        self._local = task.local
        self._noise = noise
        self._payload = algorithm.payload
        self._device = device
        self._curvature = task.curvature.to(device)
        self._centers = task.centers.to(device)
        self._chain = ClientChain(
            algorithm.client,
            num_params=len(self._curvature),
            dtype=self._curvature.dtype,
            device=device,
        )
        # Whether the steps of a job without a proximal term are one expression.
        self._is_closed = not (noise or self._chain or task.local.clip_norm)
        self._generator = torch.Generator()
        self._factors = lru_cache(maxsize=64)(self._compute_factors)

    def num_steps(self, client: int, work: WorkOrder) -> int:
        """How many local steps (for gradients: draws of the noise) a job takes."""
        return self._local.num_steps(1, work, self._payload)

    def num_processed(self, client: int, work: WorkOrder) -> int:
        """One per step."""
        return self.num_steps(client, work)

    def receipt(self, client: int, receipt: Receipt) -> None:
        """Tell the client's transforms what became of its last payload."""
        self._chain.receipt(client, receipt)

    def state_dict(self) -> dict[str, Any]:
        """What the clients keep from job to job, as a plain tree."""
        return self._chain.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what the clients kept.

        Args:
            state: From :meth:`state_dict`, of the same task and algorithm.

        Raises:
            StateError: It is not such a state.
        """
        self._chain.load_state_dict(state)

    def train(self, assignment: Assignment) -> LocalResult:
        """Do a job."""
        steps = self.num_steps(assignment.client, assignment.work)
        base = assignment.parameters.to(self._device)
        center = self._centers[assignment.client]
        states = self._chain.states(assignment.client)
        rate, proximal = assignment.work.learning_rate, assignment.work.proximal
        rate = self._local.learning_rate if rate is None else rate
        proximal = self._local.proximal if proximal is None else proximal
        self._generator.manual_seed(assignment.seed)
        with torch.no_grad():
            if self._payload == "gradient":
                payload, loss = self._gradient(base, center, steps, states)
            elif self._is_closed and not proximal:
                payload, loss = self._jump(base, center, steps, rate)
            else:
                payload, loss = self._walk(assignment, base, center, steps, rate, proximal, states)
            payload = self._chain.payload(payload, states)
        payload = payload.to(assignment.parameters.device)
        held = steps if self._payload == "gradient" else 1
        return LocalResult(payload, held, steps, steps, {"loss": loss})

    def _gradient(
        self, base: Tensor, center: Tensor, draws: int, states: tuple[Any, ...]
    ) -> tuple[Tensor, float]:
        apart = base - center
        gradient = self._curvature * apart
        loss = 0.5 * float(gradient @ apart)
        if self._noise:
            gradient += self._draw(draws).mean(dim=0)
        self._finish(gradient, base, base, states)
        return gradient, loss

    def _jump(self, base: Tensor, center: Tensor, steps: int, rate: float) -> tuple[Tensor, float]:
        apart = base - center
        change, mean_loss = self._factors(steps, rate)
        loss = float(mean_loss @ (apart * apart))
        payload = change * apart
        return (payload.add_(base) if self._payload == "weights" else payload), loss

    def _walk(
        self,
        assignment: Assignment,
        base: Tensor,
        center: Tensor,
        steps: int,
        rate: float,
        proximal: float,
        states: tuple[Any, ...],
    ) -> tuple[Tensor, float]:
        parameters, total = base.clone(), 0.0
        noise = self._draw(steps) if self._noise else None
        for step in range(steps):
            if step and assignment.is_cancelled():
                raise Cancelled
            apart = parameters - center
            gradient = self._curvature * apart
            total += 0.5 * float(gradient @ apart)
            if noise is not None:
                gradient += noise[step]
            if proximal:
                gradient.add_(parameters - base, alpha=proximal)
            self._finish(gradient, parameters, base, states)
            parameters.add_(gradient, alpha=-rate)
        payload = parameters if self._payload == "weights" else parameters.sub_(base)
        return payload, total / steps

    def _finish(
        self, gradient: Tensor, parameters: Tensor, base: Tensor, states: tuple[Any, ...]
    ) -> None:
        self._chain.gradient(gradient, parameters, base, states)
        if self._local.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((self._local.clip_norm / (norm + 1e-6)).clamp_(max=1.0))

    def _draw(self, count: int) -> Tensor:
        shape = (count, len(self._curvature))
        drawn = torch.randn(shape, generator=self._generator, dtype=self._curvature.dtype)
        return drawn.mul_(self._noise).to(self._device)

    def _compute_factors(self, steps: int, rate: float) -> tuple[Tensor, Tensor]:
        """Factors of ``x_0 - c`` in ``x_k - x_0``, and of its square in the mean loss."""
        curvature = self._curvature.double()
        shrink = 1.0 - rate * curvature
        change = shrink**steps - 1.0
        # A geometric series: the squares of the first `steps` powers of `shrink`, summed.
        square = shrink * shrink
        apart = 1.0 - square
        series = torch.where(apart.abs() < 1e-9, float(steps), (1.0 - square**steps) / apart)
        mean_loss = 0.5 * curvature * series / steps
        return change.to(self._curvature.dtype), mean_loss.to(self._curvature.dtype)


def _check_local(local: LocalTraining) -> None:
    if not isinstance(local, LocalTraining):
        raise ArgumentTypeError(
            "local must be a LocalTraining", where="tasks.quadratic(local=...)", got=repr(local)
        )
    if not local.choice.is_plain_sgd:
        raise ConfigurationError(
            "a quadratic task takes plain SGD steps",
            where="tasks.quadratic(local=...)",
            got=local.describe()["optimizer"] + f" with {local.describe()['options']}",
            help="leave optimizer and options of LocalTraining as they are",
        )


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ConfigurationError(
            "a quadratic task has no such dtype",
            where="tasks.quadratic(dtype=...)",
            got=dtype,
            expected="float32 or float64",
        )
    return known[name]
