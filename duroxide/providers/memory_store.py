"""The rules of the storage contract on plain Python objects, without any waiting.

This is the model that other stores are compared with: obvious before fast. Every method takes the
time as an argument and is atomic because nothing else runs meanwhile.
"""

from __future__ import annotations

from duroxide.providers.memory_commits import MemoryCommits
from duroxide.providers.memory_leasing import MemoryLeasing
from duroxide.providers.memory_letters import MemoryLetters


class MemoryStore(MemoryLeasing, MemoryCommits, MemoryLetters):
    """The tables, and what each call does to them.

    Args:
        new_token: makes lease tokens; each call must give another one.
    """
