"""A token is good for five minutes at least when a connection is opened with it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide import ProviderError
from duroxide.testing.clocks import ManualClock
from duroxide_pg import RefreshedToken
from duroxide_pg.entra import MARGIN_S, RETRY_S, PostgresEntraOptions, entra_password


class Issuer:
    """Numbers its tokens; each is good for `life_s`."""

    def __init__(self, clock: ManualClock, life_s: float) -> None:
        self._clock = clock
        self.life_s = life_s
        self.ends: dict[str, float] = {}
        self.is_down = False

    def __call__(self) -> tuple[str, float]:
        if self.is_down:
            raise ConnectionError("the issuer is away")
        ends_at = self._clock.now_ms() / 1000 + self.life_s
        self.ends[f"token-{len(self.ends)}"] = ends_at
        return f"token-{len(self.ends) - 1}", ends_at


@given(
    life_s=st.integers(MARGIN_S + 1, 90_000),
    oldest_s=st.integers(1, 90_000),
    steps=st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), max_size=20),
)
def test_whatever_happens_no_connection_gets_a_token_that_ends_soon(
    life_s: int, oldest_s: int, steps: list[tuple[int, bool]]
) -> None:
    clock = ManualClock()
    issuer = Issuer(clock, life_s)

    async def connect_now_and_then() -> None:
        token = RefreshedToken(issuer, oldest_s=oldest_s, clock=clock)
        for seconds, issuer.is_down in steps:
            clock.advance(seconds * 1000)
            now = clock.now_ms() / 1000
            try:
                found = await token()
            except ProviderError:
                assert issuer.is_down
                assert all(ends_at < now + MARGIN_S + 1 for ends_at in issuer.ends.values())
            else:
                assert issuer.ends[found] >= now + MARGIN_S

    asyncio.run(connect_now_and_then())


async def test_a_token_is_kept_until_it_is_old_and_fetched_once_for_all_who_wait() -> None:
    clock = ManualClock()
    issuer = Issuer(clock, 3_600)
    token = RefreshedToken(issuer, oldest_s=1_200, clock=clock)
    assert set(await asyncio.gather(*(token() for _ in range(10)))) == {"token-0"}
    clock.advance(1_199_000)
    assert await token() == "token-0"
    clock.advance(1_000)
    assert await token() == "token-1"


async def test_an_issuer_that_is_away_is_not_asked_at_each_connection() -> None:
    clock = ManualClock()
    issuer = Issuer(clock, 3_600)
    token = RefreshedToken(issuer, clock=clock)
    assert await token() == "token-0"
    issuer.is_down = True
    clock.advance(1_200_000)
    assert await token() == "token-0"
    issuer.is_down = False
    clock.advance((RETRY_S - 1) * 1000)
    assert await token() == "token-0"
    clock.advance(1_000)
    assert await token() == "token-1"


@given(steps=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=50))
def test_a_token_that_a_server_refuses_is_replaced_but_not_at_each_connection(
    steps: list[tuple[int, bool]],
) -> None:
    clock = ManualClock()
    issuer = Issuer(clock, 3_600)

    async def connect_now_and_then() -> None:
        token = RefreshedToken(issuer, clock=clock)
        refused = ""
        for seconds, is_refused in steps:
            clock.advance(seconds * 1000)
            now = clock.now_ms() / 1000
            found = await token()
            age = now - (issuer.ends[found] - 3_600)
            if found == refused:
                assert age < RETRY_S
            if is_refused:
                token.refused()
                refused = found
        fetched = sorted(issuer.ends.values())
        assert all(b - a >= RETRY_S for a, b in pairwise(fetched))

    asyncio.run(connect_now_and_then())


async def test_a_token_that_ends_at_once_is_refused() -> None:
    clock = ManualClock()
    token = RefreshedToken(Issuer(clock, 200), clock=clock)
    with pytest.raises(ProviderError, match="ends in 200 s, it has to be good for 300 s"):
        await token()


async def test_blocking_and_async_credentials_are_asked_for_the_audience() -> None:
    class Token:
        token, expires_on = "secret", 2_000_000_000

    class Blocking:
        def get_token(self, scope: str) -> Token:
            assert scope == "https://db.example.com/.default"
            return Token()

    class Async:
        async def get_token(self, scope: str) -> Token:
            return Blocking().get_token(scope)

    for credential in (Blocking(), Async()):
        options = PostgresEntraOptions(
            audience="https://db.example.com/.default", credential=credential
        )
        password = entra_password(options, clock=ManualClock())
        assert await password() == "secret"
        assert "secret" not in repr(password)
