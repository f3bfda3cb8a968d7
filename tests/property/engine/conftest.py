"""Thousands of plays would fill every report with the warnings of retries that they provoke.

Under the profile `long` a law is tried until its minutes are over, if it has not been tried often enough by then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests.fixtures.budget import bounded

MINUTES = 4.0  # for each; most need one


@pytest.fixture(autouse=True, scope="package")
def quiet_orchestrations() -> Iterator[None]:
    logger = logging.getLogger("duroxide.orchestration")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    law = getattr(getattr(item, "obj", None), "hypothesis", None)
    if law is None or os.environ.get("HYPOTHESIS_PROFILE") != "long":
        return (yield)
    inner = law.inner_test
    law.inner_test = bounded(inner, MINUTES)
    try:
        return (yield)
    finally:
        law.inner_test = inner
