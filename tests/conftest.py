"""The profiles of property tests: `ci` by default, `nightly` with `pytest --hypothesis-profile=nightly`.

Neither has a deadline: how long an example takes depends on what else the machine does.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

SLOW_ON_A_BUSY_MACHINE = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)

settings.register_profile("ci", deadline=None, print_blob=True, suppress_health_check=SLOW_ON_A_BUSY_MACHINE)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=2_000)
settings.load_profile("ci")
