from __future__ import annotations

from tests.fixtures.workers import installed, worker, workflows

__all__ = ["installed", "worker", "workflows"]
