"""The first five minutes: no data set, no second process, seconds on a laptop.

python examples/first_five_minutes.py
"""

from __future__ import annotations

import headway as hw

result = hw.simulate(
    task=hw.tasks.quadratic(dim=100, heterogeneity=1.0),
    algorithm=hw.algorithms.fedbuff(buffer_size=10),
    population=hw.population.lognormal(num_clients=50, median_s=2.0, sigma=0.8),
    stop=hw.until(virtual_time_s=600),
    seed=0,
)
print(result)
result.report("report.html")
