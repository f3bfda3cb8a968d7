"""Activities that the runtime itself provides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from duroxide.providers.base import Provider
from duroxide.registry import ActivityDef, define_activity
from duroxide.sdk_context import KV_SYSCALL


def builtin_activities(provider: Provider) -> Mapping[str, ActivityDef[..., Any]]:
    async def read_key_value(text: str) -> str:
        """Another instance's value, as JSON: a string or null."""
        asked = json.loads(text)
        values = await provider.read_key_values(asked["instance_id"])
        found = values.get(asked["key"])
        return json.dumps(None if found is None else found.value)

    definition = define_activity(read_key_value, name=KV_SYSCALL, takes_context=False, raw=True)
    return {KV_SYSCALL: definition}
