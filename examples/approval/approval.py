"""Wait for people: an expense needs a decision within a week, and says meanwhile what it waits for.

`buffered=True` also takes a decision that came before the code asked for one.
"""

import asyncio
from dataclasses import dataclass

from duroxide import OrchestrationContext, Registry, activity, orchestration
from duroxide.client import AsyncClient
from duroxide.providers.memory import MemoryProvider
from duroxide.runtime.runtime import AsyncRuntime


@dataclass
class Expense:
    who: str
    amount: int


@dataclass
class Decision:
    approved: bool
    by: str


@activity
def pay(expense: Expense) -> str:
    return f"paid {expense.amount} to {expense.who}"


@orchestration
async def approval(ctx: OrchestrationContext, expense: Expense) -> str:
    if expense.amount > 100:
        ctx.set_custom_status("waiting for a decision")
        won = await ctx.select(
            decision=ctx.wait_event("decision", Decision, buffered=True),
            nobody=ctx.sleep(days=7),
        )
        if won.key == "nobody":
            return "expired"
        if not won.value.approved:
            return f"refused by {won.value.by}"
        ctx.set_custom_status(f"approved by {won.value.by}")
    return await ctx.call(pay, expense)


REGISTRY = Registry().add(pay, approval)


async def scenario(client: AsyncClient) -> list[str]:
    small = await client.start(approval, Expense("Ada", 20), instance_id="expense-1")
    large = await client.start(approval, Expense("Bob", 500), instance_id="expense-2")
    other = await client.start(approval, Expense("Eve", 900), instance_id="expense-3")
    await client.wait_until(large, lambda s: s.custom_status == "waiting for a decision")
    await client.raise_event(large, "decision", Decision(approved=True, by="Carol"))
    await client.raise_event(other, "decision", Decision(approved=False, by="Carol"))
    return [await client.result(i, approval) for i in (small, large, other)]


async def main() -> None:
    provider = MemoryProvider()
    async with AsyncRuntime(provider, REGISTRY), AsyncClient(provider) as client:
        print(*await scenario(client), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
