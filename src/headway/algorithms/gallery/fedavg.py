"""FedAvg: synchronous federated rounds, the baseline of the asynchronous ones."""

from __future__ import annotations

from headway.algorithms.arguments import check_count, check_number, describe
from headway.algorithms.transforms import ADD, OptimizerFactory, Reduce, buffer, server_step
from headway.core import Algorithm, Bulk

__all__ = ["fedavg"]


def fedavg(
    *,
    clients_per_round: int = 10,
    over_selection: float = 1.0,
    server_optimizer: OptimizerFactory = ADD,
    reduce: Reduce = "weighted_mean",
) -> Algorithm:
    r"""Wait for ``clients_per_round`` clients that started from the same model, and average them.

    .. math:: x \leftarrow x + \eta\, \frac{\sum_i n_i \Delta_i}{\sum_i n_i}

    ``n_i`` is how many examples the client holds (the paper's ``n_k``), however much it trained on
    them. With the default server optimizer (SGD at rate 1) this is the average of their weights.
    It is the same machinery as the asynchronous algorithms: a bulk gate and a buffer of all.

    With ``over_selection`` above 1 more clients start, the first ``clients_per_round`` count, and
    the rest are cancelled; their work is counted as discarded. A client that is lost is not waited
    for once there are fewer than ``clients_per_round`` left.

    When to use it: clients of similar speed, or as the baseline. A round takes as long as its
    slowest client.

    Clients send: deltas. Memory: one model copy, and the server optimizer's state.

    Args:
        clients_per_round: Clients averaged per round, at least 1.
        over_selection: How many times more clients start, at least 1; 1.3 is common.
        server_optimizer: A ``torch.optim`` class or a ``functools.partial`` of one. SGD with
            momentum makes it FedAvgM, Adam FedAdam.
        reduce: ``"weighted_mean"`` by the examples that each holds, or ``"mean"``: clients count alike.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: An argument is out of its range.

    Example:
        >>> fedavg(clients_per_round=10, over_selection=1.3).gate.num_started
        13

    Source:
        arXiv:1602.05629, algorithm 1; arXiv:2003.00295 for server optimizers. Sent as deltas, not
        as weights: the same for the average, and it lets a server optimizer in.
    """
    check_count("clients_per_round", clients_per_round)
    check_number("over_selection", over_selection, minimum=1.0)
    return Algorithm(
        name="fedavg",
        payload="delta",
        chain=(buffer(clients_per_round, reduce=reduce, shrink=True),),
        step=server_step(server_optimizer, unit_weights=True),
        gate=Bulk(clients_per_round, over_selection),
        settings=describe(
            {
                "clients_per_round": clients_per_round,
                "over_selection": over_selection,
                "server_optimizer": server_optimizer,
                "reduce": reduce,
            }
        ),
    )
