"""AsyncRuntime: the dispatchers, the flusher and the lease keeper as one service."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from duroxide.activity_context import FinishedAs
from duroxide.errors import ProviderError
from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import (
    CommitItem,
    EagerDispatch,
    LeasedActivity,
    Provider,
)
from duroxide.registry import Registry
from duroxide.runtime.activities import ActivityDispatcher
from duroxide.runtime.deliveries import Completion
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.gauges import Gauges
from duroxide.runtime.guard import Guard
from duroxide.runtime.heartbeats import Heartbeats
from duroxide.runtime.leases import LeaseKeeper, Leases
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.orchestrations import OrchestrationDispatcher
from duroxide.runtime.sessions import SessionKeeper
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.suspects import Suspects
from duroxide.runtime.tasks import end
from duroxide.runtime.telemetry import LoggingObserver, Observers
from duroxide.runtime.watchdog import Watchdog

logger = logging.getLogger("duroxide.runtime")

POLL_END_S = 1.0  # for a waiting poll to return once it was woken
HAND_BACK_S = 2.0  # for the store to take back what could not be finished


class AsyncRuntime:
    """Runs the orchestrations and activities of a registry on a store.

    It belongs to the event loop that starts it. Several runtimes, in this process or in others, may
    work on one store.

        async with AsyncRuntime(provider, registry):
            ...

    Args:
        provider: started by `start`; whoever made it closes it.
        new_seed: for the randomness that orchestration code may use; hexadecimal.
        draw: decides how long to wait before trying again; seeded in simulations.
    """

    def __init__(
        self,
        provider: Provider,
        registry: Registry,
        options: RuntimeOptions | None = None,
        *,
        new_seed: Callable[[], str] = lambda: secrets.token_hex(16),
        draw: random.Random | None = None,
    ) -> None:
        self.options = options or RuntimeOptions()
        self.provider = provider
        self.registry = registry
        self.worker_id = self.options.worker_node_id or str(uuid.uuid4())
        self._new_seed = new_seed
        self._draw = draw
        self._is_running = False
        self._stopping: asyncio.Task[None] | None = None

    # Life.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.drain()
        await self.stop()

    async def start(self) -> None:
        """Begin to work.

        Raises:
            RuntimeError: it runs already.
            ProviderError: the store can't be used.
        """
        if self._is_running:
            raise RuntimeError("the runtime is running already")
        if self._stopping is not None and not self._stopping.done():
            await asyncio.shield(self._stopping)
        await self.provider.start()
        self._is_running = True
        options, clock = self.options, StoreClock()
        observer = Observers(LoggingObserver(), options.observer)
        self._threads = ThreadPoolExecutor(
            options.worker_threads or options.activity_slots, thread_name_prefix="activity"
        )
        turns = Leases[TurnToken](lease_ms=options.turn_lease_ms, buffer_ms=options.turn_buffer_ms)
        activities = Leases[ActivityToken](
            lease_ms=options.activity_lease_ms, buffer_ms=options.activity_buffer_ms
        )
        self._flusher = Flusher(
            self.provider, observer=observer, offer=self._offer, draw=self._draw
        )
        self._keeper = LeaseKeeper(
            self.provider,
            clock,
            turns=turns,
            activities=activities,
            observer=observer,
            draw=self._draw,
        )
        self._sessions = SessionKeeper(
            self.provider,
            owner=self.worker_id,
            limit=options.session_limit,
            lease_ms=options.session_lease_ms,
            buffer_ms=options.session_buffer_ms,
            idle_ms=options.session_idle_ms,
            observer=observer,
            sweep_s=options.session_cleanup_interval_ms / 1000,
        )
        self._heartbeats = Heartbeats(self.provider, observer)
        self._watchdog = Watchdog(options.slow_turn_ms / 1000)
        suspects = Suspects(options.attempts)
        self._activities = ActivityDispatcher(
            self.provider,
            self.registry,
            options,
            worker_id=self.worker_id,
            flusher=self._flusher,
            leases=activities,
            clock=clock,
            threads=self._threads,
            observer=observer,
            suspects=suspects,
            sessions=self._sessions,
            heartbeats=self._heartbeats,
            deliver=self._deliver,
            ended=self._ended,
            draw=self._draw,
        )
        self._orchestrations = OrchestrationDispatcher(
            self.provider,
            self.registry,
            options,
            worker_id=self.worker_id,
            flusher=self._flusher,
            leases=turns,
            clock=clock,
            observer=observer,
            activities=self._activities,
            suspects=suspects,
            new_seed=self._new_seed,
            guard=Guard(),
            watchdog=self._watchdog,
            draw=self._draw,
        )
        self._service = [
            self._spawn(self._keeper.run(), "lease keeper"),
            self._spawn(self._sessions.run(), "session keeper"),
            self._spawn(self._heartbeats.run(), "heartbeats"),
            self._spawn(Gauges(self.provider, observer).run(), "gauges"),
        ]
        self._polls = [
            self._spawn(self._orchestrations.poller.run(), "poll turns"),
            self._spawn(self._activities.poller.run(), "poll activities"),
        ]
        logger.info(
            "runtime %s started on %s",
            self.worker_id,
            self.provider.name,
            extra={"worker_id": self.worker_id},
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"duroxide: {name}")
        task.add_done_callback(_report)
        return task

    def _offer(self) -> EagerDispatch | None:
        if not self.provider.capabilities.eager_dispatch:
            return None
        return self._activities.offer()

    def _deliver(
        self, leased: LeasedActivity, completion: Completion, recorded: Callable[[bool], None]
    ) -> bool:
        return self._orchestrations.deliver(leased, completion, recorded)

    def _ended(
        self, leased: LeasedActivity, *, wrote_itself: bool, message: FinishedAs | None
    ) -> None:
        self._orchestrations.activity_ended(leased, wrote_itself=wrote_itself, message=message)

    async def drain(self, timeout: timedelta | None = None) -> bool:
        """Take nothing new, finish what is under way; false if that took longer than the timeout.

        Leases are renewed meanwhile. What is left after the timeout is for `stop`. Returns as soon
        as nothing is under way.
        """
        if not self._is_running:
            return True
        limit_s = (
            self.options.drain_timeout_ms / 1000 if timeout is None else timeout.total_seconds()
        )
        await self._end_polls()
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.gather(self._orchestrations.drain(), self._activities.drain())
        except TimeoutError:
            return False
        return True

    def _begin_nothing_new(self) -> None:
        self._orchestrations.poller.stop()
        self._activities.poller.stop()
        self._activities.begin_nothing_new()
        self.provider.wake(turns=True, activities=True)

    async def _end_polls(self) -> None:
        """A poll that waits is woken rather than cancelled: it may have leased something."""
        self._begin_nothing_new()
        pollers = (self._orchestrations.poller, self._activities.poller)
        polls = zip(pollers, self._polls, strict=True)
        asking = [task for poller, task in polls if poller.is_asking]
        if asking:
            await asyncio.wait(asking, timeout=POLL_END_S)
        await end(*self._polls)

    async def stop(self) -> None:
        """End at once: what is under way is cancelled and given back for others to do.

        A caller that is cancelled only stops waiting; who calls again waits for the same end.
        """
        if self._is_running:
            self._is_running = False
            self._begin_nothing_new()
            self._stopping = asyncio.create_task(self._stop(), name="duroxide: stop")
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        await self._end_polls()
        back = await self._orchestrations.stop() + await self._activities.stop()
        if back:
            await self._hand_back(back)
        await self._flusher.close()
        await end(*self._service)
        if self.options.worker_node_id is None:
            await self._release_sessions()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._watchdog.stop()
        logger.info("runtime %s stopped", self.worker_id, extra={"worker_id": self.worker_id})

    async def _hand_back(self, items: list[CommitItem]) -> None:
        """Best effort: a lease that can't be given back runs out by itself."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._heartbeats.flush()
                await self.provider.commit(items)
        except (ProviderError, TimeoutError) as error:
            logger.warning("%s leases were not given back: %s", len(items), error)

    async def _release_sessions(self) -> None:
        """Nobody comes back under a name that was made up; a name that was given keeps its sessions."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._sessions.release()
        except (ProviderError, TimeoutError) as error:
            logger.warning("sessions were not given back: %s", error)
        self.provider.wake(activities=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("%s died", task.get_name(), exc_info=task.exception())
