"""How long messages to an instance that does not exist wait for it to be started."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from duroxide.ids import InstanceId

SHORTEST_MS = 250
LONGEST_MS = 60_000
REMEMBERED = 10_000


class Orphans:
    """Remembers since when this process has seen messages to nobody.

    A restart begins the retention anew, so messages wait at least as long as promised. The pauses
    grow with the age: a start that comes soon finds its messages soon.
    """

    def __init__(self, retention_s: float) -> None:
        self._retention_s = retention_s
        self._since: OrderedDict[InstanceId, float] = OrderedDict()

    def delay_ms(self, instance_id: InstanceId) -> int | None:
        """Until when to look again; None: long enough, drop them."""
        now = asyncio.get_running_loop().time()
        age_s = now - self._since.setdefault(instance_id, now)
        if age_s >= self._retention_s:
            del self._since[instance_id]
            return None
        if len(self._since) > REMEMBERED:
            self._since.popitem(last=False)
        return int(min(max(age_s * 500, SHORTEST_MS), LONGEST_MS))
