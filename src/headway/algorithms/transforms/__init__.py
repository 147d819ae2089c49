"""The stages that algorithms are chained from.

What belongs here: transforms, server steps and client transforms that more than one algorithm can
use, one verb each, named as what they do to an update. What does not: whole algorithms.
"""

from __future__ import annotations

from headway.algorithms.transforms.adaptive import AdaptiveKind, adaptive_step, amsgrad_step
from headway.algorithms.transforms.buffering import OnClose, Reduce, buffer
from headway.algorithms.transforms.calibration import calibrate
from headway.algorithms.transforms.clipping import clip
from headway.algorithms.transforms.compensation import Compensation, delay_compensation
from headway.algorithms.transforms.delayed_nesterov import delayed_nesterov
from headway.algorithms.transforms.drafting import draft
from headway.algorithms.transforms.drift import (
    Distances,
    StepAdaptation,
    scale_by_alignment,
    scale_by_distance,
)
from headway.algorithms.transforms.elastic import (
    elastic_exchange,
    exchange_work,
    keep_replica,
    watch_replicas,
)
from headway.algorithms.transforms.fragments import (
    AdaptiveGrace,
    Averaging,
    Weighing,
    gather_fragments,
)
from headway.algorithms.transforms.functions import Stateless, reweighted, stateless
from headway.algorithms.transforms.gap_aware import gap_aware_step
from headway.algorithms.transforms.gathering import Gathering, buffer_by_worker
from headway.algorithms.transforms.grouping import Groups, groups
from headway.algorithms.transforms.judging import judge_descent
from headway.algorithms.transforms.local_steps import (
    divide_by_steps,
    scale_by_token_rate,
    scale_by_workers,
)
from headway.algorithms.transforms.mixing import mix
from headway.algorithms.transforms.momentum_correction import correct_momentum
from headway.algorithms.transforms.optimizers import ADD, OptimizerFactory
from headway.algorithms.transforms.privacy import cap_weight, gaussian_noise
from headway.algorithms.transforms.proximity import proximal
from headway.algorithms.transforms.rates import is_proportional, scale_rate, server_rate
from headway.algorithms.transforms.reducers import (
    Reducer,
    coordinate_median,
    krum,
    mean,
    trimmed_mean,
)
from headway.algorithms.transforms.slow_momentum import slow_momentum_step
from headway.algorithms.transforms.speed import Speeds, measure_speed
from headway.algorithms.transforms.stepping import server_step
from headway.algorithms.transforms.tables import table_mean
from headway.algorithms.transforms.turns import note_model, send_after_turn, take_turns
from headway.algorithms.transforms.weighting import (
    drop_stale,
    saturate,
    scale_by_examples,
    scale_by_staleness,
)
from headway.algorithms.transforms.window import Filling, sliding_window
from headway.algorithms.transforms.worker_momentum import (
    local_momentum,
    look_ahead,
    worker_momentum,
)

__all__ = [
    "ADD",
    "AdaptiveGrace",
    "AdaptiveKind",
    "Averaging",
    "Compensation",
    "Distances",
    "Filling",
    "Gathering",
    "Groups",
    "OnClose",
    "OptimizerFactory",
    "Reduce",
    "Reducer",
    "Speeds",
    "Stateless",
    "StepAdaptation",
    "Weighing",
    "adaptive_step",
    "amsgrad_step",
    "buffer",
    "buffer_by_worker",
    "calibrate",
    "cap_weight",
    "clip",
    "coordinate_median",
    "correct_momentum",
    "delay_compensation",
    "delayed_nesterov",
    "divide_by_steps",
    "draft",
    "drop_stale",
    "elastic_exchange",
    "exchange_work",
    "gap_aware_step",
    "gather_fragments",
    "gaussian_noise",
    "groups",
    "is_proportional",
    "judge_descent",
    "keep_replica",
    "krum",
    "local_momentum",
    "look_ahead",
    "mean",
    "measure_speed",
    "mix",
    "note_model",
    "proximal",
    "reweighted",
    "saturate",
    "scale_by_alignment",
    "scale_by_distance",
    "scale_by_examples",
    "scale_by_staleness",
    "scale_by_token_rate",
    "scale_by_workers",
    "scale_rate",
    "send_after_turn",
    "server_rate",
    "server_step",
    "sliding_window",
    "slow_momentum_step",
    "stateless",
    "table_mean",
    "take_turns",
    "trimmed_mean",
    "watch_replicas",
    "worker_momentum",
]
