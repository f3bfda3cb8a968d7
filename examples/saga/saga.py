"""A saga: book a trip step by step; if a step fails, undo what was done, last step first."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from duroxide import ActivityError, OrchestrationContext, Registry, activity, orchestration
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.registry import ActivityDef
from duroxide.runtime.runtime import AsyncRuntime


@activity
def book_flight(city: str) -> str:
    return f"flight to {city}"


@activity
def book_hotel(city: str) -> str:
    return f"hotel in {city}"


@activity
def book_car(city: str) -> str:
    if city == "Venice":
        raise ActivityError("there are no cars in Venice", retryable=False)
    return f"car in {city}"


@activity
def cancel_booking(booking: str) -> str:
    return f"cancelled: {booking}"


STEPS: list[ActivityDef[..., Any]] = [book_flight, book_hotel, book_car]


@orchestration
async def trip(ctx: OrchestrationContext, city: str) -> list[str]:
    undo: list[Callable[[], Any]] = []
    done: list[str] = []
    try:
        for step in STEPS:
            booking = await ctx.call(step, city)
            done.append(booking)
            undo.append(partial(ctx.call, cancel_booking, booking))
    except ActivityError as error:
        done.append(f"failed: {error}")
        for compensate in reversed(undo):
            done.append(await compensate())
    return done


REGISTRY = Registry().add(book_flight, book_hotel, book_car, cancel_booking, trip)


async def scenario(client: AsyncClient) -> list[list[str]]:
    cities = ("Rome", "Venice")
    instances = [await client.start(trip, city, instance_id=f"trip-{city}") for city in cities]
    return [await client.result(instance, trip) for instance in instances]


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        for line in await scenario(client):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
