"""Configuration: a TOML file, environment variables and ``--set``, checked and completed.

What belongs here: the shape of a configuration, where each value came from, errors that name a
line, and the way from names to tasks, algorithms and populations. What does not: what these mean,
which their own rooms say (nothing here knows a single algorithm), and the command line.
"""

from __future__ import annotations

from headway.config.build import (
    check_clients,
    make_algorithm,
    make_checkpoint_every,
    make_data,
    make_every,
    make_execution,
    make_population,
    make_runtime,
    make_scheduler,
    make_server,
    make_staleness,
    make_stop,
    make_target,
    make_task,
    make_terms,
)
from headway.config.factories import KINDS, Factory, Option, factories, find
from headway.config.layers import Origin
from headway.config.model import Config
from headway.config.resolve import Resolved, load
from headway.config.schema import json_schema

__all__ = [
    "KINDS",
    "Config",
    "Factory",
    "Option",
    "Origin",
    "Resolved",
    "check_clients",
    "factories",
    "find",
    "json_schema",
    "load",
    "make_algorithm",
    "make_checkpoint_every",
    "make_data",
    "make_every",
    "make_execution",
    "make_population",
    "make_runtime",
    "make_scheduler",
    "make_server",
    "make_staleness",
    "make_stop",
    "make_target",
    "make_task",
    "make_terms",
]
