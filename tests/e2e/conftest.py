from __future__ import annotations

from tests.fixtures.standing import standing, standing_database
from tests.fixtures.workers import installed, worker, worker_here, workflows

__all__ = ["installed", "standing", "standing_database", "worker", "worker_here", "workflows"]
