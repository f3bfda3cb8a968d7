"""What a worker does for one database: provider, orchestrations and steps as one service."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from contextlib import AsyncExitStack
from datetime import timedelta

import psycopg

from duroxide.errors import ProviderError
from duroxide.limits import Limits
from duroxide.registry import Registry
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.runtime.tasks import end
from duroxide.runtime.telemetry import Observer
from duroxide_pg.errors import NotPermitted, SchemaMissing
from duroxide_pg.provider import PostgresProvider
from duroxide_pg.sources import connected
from pg_durable import install
from pg_durable.compile import orchestrations
from pg_durable.heartbeat import Heartbeat
from pg_durable.home import Home
from pg_durable.identity import Credentials, Identity, Login
from pg_durable.refusals import Refusals
from pg_durable.retention import Retention
from pg_durable.settings import Settings
from pg_durable.snapshots import Snapshots
from pg_durable.steps.activity import sql_activity
from pg_durable.steps.connections import StepConnections
from pg_durable.steps.desk import HomeDesk
from pg_durable.steps.http import http_activity
from pg_durable.steps.rows import ResultLimits
from pg_durable.steps.signals import signal_activities
from pg_durable.steps.sql import SqlSteps, StepOptions

logger = logging.getLogger(__name__)

COMMIT_HOOK = "df._project_v1"
SCHEMA_POLL_S = 5.0
START_PAUSES_S = (0.1, 0.5, 2.0)
# What ends a start that may well succeed a moment later.
PASSING = (psycopg.OperationalError, psycopg.InterfaceError, ProviderError)
# A record holds a result twice over: as a document and as text inside a message.
_HISTORY_BYTES = 1024 * 1024 * 1024


class Service:
    """Runs the workflows of one database.

    Args:
        wait_for_schema: wait until somebody installs the schemas rather than refuse to start.
    """

    def __init__(
        self,
        dsn: str,
        settings: Settings,
        *,
        credentials: Credentials | None,
        wait_for_schema: bool,
    ) -> None:
        self.settings = settings
        self.worker_id = str(uuid.uuid4())
        self._dsn = dsn
        self._credentials = credentials
        self._wait_for_schema = wait_for_schema
        self._stack: AsyncExitStack | None = None
        self._watch: asyncio.Task[None] | None = None
        self._grace_s = self.settings.shutdown_grace

    async def start(self) -> None:
        """Check the database and begin to work; returns once it does.

        Raises:
            SetupError: the database can't be worked for; with the remedy.
        """
        gone = await self._start_over_failures()
        self._watch = asyncio.create_task(self._survive(gone), name="pg_durable: watch the schema")

    async def _start_over_failures(self) -> asyncio.Event:
        """Start, again if a session is lost meanwhile: a server may be going down or coming up."""
        for pause_s in START_PAUSES_S:
            try:
                return await self._start_once(wait=self._wait_for_schema)
            except PASSING as problem:
                if isinstance(problem, ProviderError) and not problem.retryable:
                    raise
                logger.warning(
                    "worker %s: starting again: %s", self.worker_id, " ".join(str(problem).split())
                )
            await asyncio.sleep(pause_s)
        return await self._start_once(wait=self._wait_for_schema)

    async def _start_once(self, *, wait: bool) -> asyncio.Event:
        """Start everything; the event is set when the schema is gone."""
        await self._require_schema(wait=wait)
        async with AsyncExitStack() as stack:
            gone = await self._start_in(stack)
            self._stack = stack.pop_all()
        logger.info("worker %s started", self.worker_id)
        return gone

    async def _survive(self, gone: asyncio.Event) -> None:
        """Begin anew whenever the schema was dropped and is there again."""
        while True:
            await gone.wait()
            logger.warning("worker %s: the schema df was dropped; waiting for it", self.worker_id)
            await self._close(shutdown_grace=0)
            gone = await self._start_anew()

    async def _start_anew(self) -> asyncio.Event:
        """Start as soon as it is possible: nobody is there to hear that it is not."""
        while True:
            try:
                return await self._start_once(wait=True)
            except PASSING as problem:
                logger.warning(
                    "worker %s: starting again: %s", self.worker_id, " ".join(str(problem).split())
                )
            await asyncio.sleep(SCHEMA_POLL_S)

    async def stop(self) -> None:
        """End in order: take nothing new, let steps end for `shutdown_grace`, give back the rest."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await end(watch)
            if not watch.cancelled() and watch.exception() is not None:
                logger.error("worker %s could not go on: %s", self.worker_id, watch.exception())
        await self._close(shutdown_grace=self.settings.shutdown_grace)

    async def _close(self, *, shutdown_grace: float) -> None:
        if self._stack is not None:
            self._grace_s = shutdown_grace
            stack, self._stack = self._stack, None
            await stack.aclose()
            logger.info("worker %s stopped", self.worker_id)

    async def _require_schema(self, *, wait: bool) -> None:
        while True:
            try:
                return await asyncio.to_thread(install.require, self._dsn)
            except SchemaMissing as missing:
                if not wait:
                    raise
                logger.warning("waiting: %s", missing)
            await _notified(self._dsn, "df_install", SCHEMA_POLL_S)

    async def _start_in(self, stack: AsyncExitStack) -> asyncio.Event:
        settings = self.settings
        home = await stack.enter_async_context(
            Home(self._dsn, connect_timeout_s=settings.connect_timeout)
        )
        install_row = await home.read_install()
        assert install_row is not None, "checked by _require_schema"
        provider = PostgresProvider(
            self._dsn, schema=settings.engine_schema, commit_hook=COMMIT_HOOK
        )
        stack.push_async_callback(provider.close)
        login = Login(
            self._dsn,
            worker_role=install_row[1],
            credentials=self._credentials,
            connect_timeout_s=settings.connect_timeout,
            timezone=settings.workflow_timezone,
            allows_superusers=home.allows_superusers,
        )
        identity = await self._identity(home, install_row[1])
        connections = StepConnections(login.connect)
        stack.push_async_callback(connections.close)
        desk = HomeDesk(home, provider, lease_ms=round(settings.activity_lease * 1000))
        steps = SqlSteps(
            connections,
            desk,
            _step_options(settings),
            identity=identity,
            home_database=install_row[2],
            jitter=random.Random().random,
        )
        registry = Registry()
        for definition in orchestrations(Snapshots(home).prepare):
            registry.add_orchestration(definition)
        registry.add(
            sql_activity(steps, concurrency=settings.sql_concurrency),
            http_activity(
                settings.egress,
                desk,
                concurrency=settings.http_concurrency,
                max_response_bytes=settings.http_max_response_bytes,
            ),
            *signal_activities(home),
        )
        heartbeat = await stack.enter_async_context(
            Heartbeat(
                home,
                self.worker_id,
                interval_s=settings.heartbeat_interval,
                install_id=install_row[0],
            )
        )
        refusals = Refusals(home)
        stack.push_async_callback(refusals.close)
        options = _runtime_options(settings, self.worker_id, refusals)
        runtime = AsyncRuntime(provider, registry, options)
        await runtime.start()
        stack.push_async_callback(self._stop_runtime, runtime)
        sweeping = asyncio.create_task(
            Retention(home, provider, interval_s=settings.reconcile_interval).run(),
            name="pg_durable: retention",
        )
        stack.push_async_callback(end, sweeping)
        stack.push_async_callback(heartbeat.drain)
        return heartbeat.schema_gone

    async def _identity(self, home: Home, worker_role: str) -> Identity:
        """How steps become their submitters; says what is dangerous about it.

        Raises:
            NotPermitted: the worker is a superuser, whose rights a step could then take.
        """
        settings = self.settings
        identity = Identity.parse(settings.identity, worker_role)
        if not identity.sets_roles:
            return identity
        if await home.is_superuser() and not settings.allow_unsafe_set_role:
            raise NotPermitted(
                f"the worker's role {worker_role} is a superuser, and with the identity set_role every "
                "step could take its rights",
                "run the worker as an ordinary role that owns the schemas, or set allow_unsafe_set_role",
            )
        logger.warning(
            "identity set_role: RESET ROLE in a step gives it the rights of %s; use it only where "
            "everyone who may start workflows is trusted with them",
            worker_role,
        )
        return identity

    async def _stop_runtime(self, runtime: AsyncRuntime) -> None:
        if not await runtime.drain(timedelta(seconds=self._grace_s)):
            logger.warning("steps were still running and are given back to other workers")
        await runtime.stop()


def _step_options(settings: Settings) -> StepOptions:
    return StepOptions(
        limits=ResultLimits(rows=settings.max_result_rows, bytes=settings.max_result_bytes),
        timeout_ms=round(settings.sql_timeout * 1000),
        at_most_once=settings.on_ambiguous == "fail",
    )


def _runtime_options(settings: Settings, worker_id: str, observer: Observer) -> RuntimeOptions:
    payload_bytes = max(Limits().payload_bytes, 2 * settings.max_result_bytes)
    return RuntimeOptions(
        orchestration_concurrency=settings.turn_concurrency,
        worker_concurrency=(
            settings.sql_concurrency + settings.http_concurrency + settings.system_concurrency
        ),
        worker_lock_timeout_ms=round(settings.activity_lease * 1000),
        orchestrator_lock_timeout_ms=round(settings.turn_lease * 1000),
        max_attempts=settings.max_attempts,
        worker_node_id=worker_id,
        observer=observer,
        worker_tag_filter="any",
        tag_caps=settings.role_caps,
        long_poll_ms=round(settings.poll_interval * 1000),
        limits=Limits(payload_bytes=payload_bytes, history_bytes=_HISTORY_BYTES),
    )


async def _notified(dsn: str, channel: str, timeout_s: float) -> None:
    """Return when the channel is notified, or after the timeout."""
    try:
        connect = psycopg.AsyncConnection.connect(dsn, autocommit=True)
        async with await connected(connect) as connection:
            await connection.execute(
                psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(channel))
            )
            async for _ in connection.notifies(timeout=timeout_s, stop_after=1):
                return
    except psycopg.OperationalError as error:
        logger.warning("waiting: %s", error)
        await asyncio.sleep(timeout_s)
