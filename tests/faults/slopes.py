"""Whether what a process uses grows with time: a robust slope, and what it may be."""

import statistics
from itertools import combinations
from typing import NamedTuple

WARM_UP = 0.25
"""The part of a process's life that is not looked at: caches fill, pools open."""
WARM_UP_SECONDS = 300.0
"""And at least so much. A pod at 250 messages a second came to rest after 25,000 of them, 30 MB above its start."""
FEWEST = 20
"""Samples below which nothing is said."""
MOST = 300
"""Samples that are compared with each other; of more, every n-th."""

Sample = tuple[float, dict[str, int]]
"""Seconds, and what the process used."""


class Tolerance(NamedTuple):
    """What a resource may rise by over the whole of the time looked at: a part of its median, and so much more."""

    part: float
    absolute: float


TOLERANCES = {
    "rss": Tolerance(0.10, 8 * 1024**2),
    "threads": Tolerance(0.0, 2.0),
    "files": Tolerance(0.10, 3.0),
    "connections": Tolerance(0.10, 3.0),
}


class Slope(NamedTuple):
    name: str
    median: float
    per_hour: float
    rise: float
    """Over the time looked at."""
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.rise <= self.allowed


def slope(points: list[tuple[float, float]]) -> float:
    """The median of the slopes of all pairs (Theil and Sen): a third of the points may be anything."""
    step = max(1, len(points) // MOST)
    pairs = combinations(points[::step], 2)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x2 > x1)


def slopes(samples: list[Sample]) -> list[Slope]:
    """One process's resources after its warm-up; empty where there are too few samples."""
    if not samples:
        return []
    first, last = samples[0][0], samples[-1][0]
    warm_at = first + max(WARM_UP * (last - first), WARM_UP_SECONDS)
    warm = [one for one in samples if one[0] >= warm_at]
    if len(warm) < FEWEST:
        return []
    found = []
    for name, tolerance in TOLERANCES.items():
        points = [(at, float(used[name])) for at, used in warm]
        median = statistics.median(value for _, value in points)
        of_second = slope(points)
        rise = of_second * (points[-1][0] - points[0][0])
        found.append(Slope(name, median, of_second * 3600, rise, tolerance.part * median + tolerance.absolute))
    return found
