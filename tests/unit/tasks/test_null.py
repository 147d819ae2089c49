"""The task that costs nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headway.core import WorkOrder
from headway.core.errors import ConfigurationError
from headway.task import Assignment, Objective
from headway.tasks import null
from tests.unit.task.jobs import CPU, algorithm


def test_every_job_has_the_same_result() -> None:
    task: Objective = null(num_params=4, num_clients=3)
    assert isinstance(task, Objective)
    start = task.start(9, CPU)
    assert start.parameters.tolist() == [0.0] * 4
    assert start.layout.num_params == 4
    trainer = task.trainer(algorithm(), CPU)
    results = [trainer.train(Assignment(c, start.parameters, seed=c)) for c in range(3)]
    assert results[0] is results[1] is results[2]
    assert results[0].payload.shape == (4,)
    assert trainer.num_steps(0, WorkOrder(steps=7)) == 1 == task.num_examples(2)
    assert task.evaluate(start.parameters, None) == {"loss": 0.0}


def test_the_description_is_json_and_makes_it_again() -> None:
    description = json.loads(json.dumps(null(5, 6).describe()))
    assert description.pop("name") == "null"
    assert null(**description).num_clients == 6


@pytest.mark.parametrize("settings", [{"num_params": 0}, {"num_clients": True}])
def test_what_it_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        null(**settings)
