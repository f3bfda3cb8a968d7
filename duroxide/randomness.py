"""Randomness that a replay draws again: a hash of the execution's seed and a counter."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any
from uuid import UUID

_BLOCK_BITS = 256


class DurableRandom(random.Random):
    """A `random.Random` whose `random()` and `getrandbits()` are fixed for ever by the seed.

    The other methods are the standard library's over these two.
    """

    def __init__(self, seed: str, stream: str) -> None:
        self._prefix = f"{seed}/{stream}/".encode()
        self._counter = 0
        self._pool = 0
        self._pool_bits = 0
        super().__init__()

    def random(self) -> float:
        """A float in [0, 1) with 53 random bits."""
        return self.getrandbits(53) / (1 << 53)

    def getrandbits(self, k: int, /) -> int:
        """An integer of `k` random bits."""
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        while self._pool_bits < k:
            block = sha256(self._prefix + str(self._counter).encode()).digest()
            self._counter += 1
            self._pool |= int.from_bytes(block, "little") << self._pool_bits
            self._pool_bits += _BLOCK_BITS
        value = self._pool & ((1 << k) - 1)
        self._pool >>= k
        self._pool_bits -= k
        return value

    def seed(self, *args: Any, **kwargs: Any) -> None:
        """The execution's seed is given; only the constructor of the base class comes here."""

    def getstate(self) -> Any:
        raise NotImplementedError("the state is the execution's seed and what was drawn so far")

    def setstate(self, state: Any) -> None:
        raise NotImplementedError("the state is the execution's seed and what was drawn so far")


def uuid_from(bits: int) -> UUID:
    """A version 4 UUID of 128 given bits."""
    return UUID(int=bits, version=4)
