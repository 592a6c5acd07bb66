"""How long to wait before something is tried again. Called by commits, object stores, runs of jobs and clients.

The pause doubles with each attempt, and chance spreads it, so that those that failed together do not return together.
"""

from __future__ import annotations

import math
import random


def backoff_s(first_s: float, attempt: int, spread: float = 0.5, most_s: float = math.inf) -> float:
    """Seconds to wait after the failure of `attempt` (from 1): `first_s`, doubled each time, give or take `spread`.

    `most_s` bounds it before chance does.
    """
    return min(first_s * 2.0 ** (attempt - 1), most_s) * random.uniform(1 - spread, 1 + spread)
