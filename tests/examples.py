"""How many examples a property test draws. For tests whose examples cost more, or less, than hypothesis's 100 do."""

from __future__ import annotations

from hypothesis import settings

NIGHTLY = 60  # times as many


def examples(count: int) -> settings:
    """A decorator: `count` examples in the profile `ci`, NIGHTLY times as many in the profile `nightly`."""
    return settings(max_examples=count * (NIGHTLY if settings.get_current_profile_name() == "nightly" else 1))
