"""Profiles and fixtures for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.fixtures.budget import SHARE

pytest_plugins = ["tests.fixtures.postgres"]

# print_blob: a failure prints the line that replays it, also on another machine.
settings.register_profile(
    "default",
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile(
    "long", settings.get_profile("default"), max_examples=max(1, round(10_000 * SHARE))
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
