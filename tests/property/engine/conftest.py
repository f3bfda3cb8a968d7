"""Thousands of plays would fill every report with the warnings of retries that they provoke."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def quiet_orchestrations() -> Iterator[None]:
    logger = logging.getLogger("duroxide.orchestration")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before
