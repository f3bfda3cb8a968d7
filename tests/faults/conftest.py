from __future__ import annotations

from tests.fixtures.workers import installed, workflows

__all__ = ["installed", "workflows"]
