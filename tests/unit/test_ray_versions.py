"""A cluster with another Ray or Python is refused with one sentence that names both."""

from __future__ import annotations

import pytest
from ray._private.utils import check_version_info

from eagleray.cluster.ray_session import _other_version


@pytest.mark.parametrize(("ray_version", "python"), [("2.59.0", "3.11.7"), ("2.60.0", "3.12.1")])
def test_versions_of_both_are_named(ray_version: str, python: str) -> None:
    cluster = {"ray_version": ray_version, "python_version": python}
    with pytest.raises(RuntimeError, match="Version mismatch") as caught:
        check_version_info(cluster, "10.0.0.2", raise_on_mismatch=True, python_version_match_level="minor")
    said = _other_version(str(caught.value))
    assert f"the cluster has Ray {ray_version} on Python {python} and this is Ray 2." in said
    assert "\n" not in said
