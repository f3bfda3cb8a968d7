from __future__ import annotations

from tests.fixtures.workers import installed, worker, worker_here, workflows

__all__ = ["installed", "worker", "worker_here", "workflows"]
