"""A long-lived actor: an account that takes commands from its queue, for years.

It continues as new every few commands, so its history stays short; the balance lives in the input, and
commands that nobody has read yet go along.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

from duroxide import OrchestrationContext, Registry, orchestration
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.runtime import AsyncRuntime

COMMANDS_PER_EXECUTION = 5


@dataclass
class Command:
    kind: Literal["deposit", "withdraw", "close"]
    amount: int = 0


@orchestration
async def account(ctx: OrchestrationContext, balance: int) -> int:
    commands = ctx.queue("commands", Command)
    for _ in range(COMMANDS_PER_EXECUTION):
        command = await commands.get()
        match command.kind:
            case "deposit":
                balance += command.amount
            case "withdraw" if command.amount <= balance:
                balance -= command.amount
            case "withdraw":
                ctx.set_kv_value("refused", command.amount)
            case "close":
                return balance
        ctx.set_custom_status(f"balance {balance}")
    return ctx.continue_as_new(balance)


REGISTRY = Registry().add(account)


async def scenario(client: AsyncClient) -> tuple[int, str]:
    instance = await client.start(account, 0, instance_id="account-1")
    for _ in range(12):
        await client.enqueue(instance, "commands", Command("deposit", 10))
    await client.enqueue(instance, "commands", Command("withdraw", 1_000_000))
    await client.enqueue(instance, "commands", Command("withdraw", 20))
    await client.enqueue(instance, "commands", Command("close"))
    balance = await client.result(instance, account)
    refused = (await client.key_values(instance))["refused"].value
    return balance, refused


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        print(await scenario(client))


if __name__ == "__main__":
    asyncio.run(main())
