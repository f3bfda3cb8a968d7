"""The role that a step runs as: known by its number, since names can be changed and given away."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from pg_durable.identity import superuser_refused
from pg_durable.steps.desk import Desk
from pg_durable.steps.failures import StepFailed
from pg_durable.steps.step import SqlStep

_REMEMBERED = 1000


class Roles:
    """Finds out what a submitter is called now.

    The graph has the name of the time when the workflow was started. A step at home needs no question
    before it: if the name has become another role's, the record of the step is refused.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._renamed: OrderedDict[str, str] = OrderedDict()  # by workflow

    def known(self, step: SqlStep) -> SqlStep:
        """The step with the last name that was found out, without asking."""
        name = self._renamed.get(step.workflow_id)
        return step if name is None else replace(step, submitted_by=name)

    async def current(self, step: SqlStep) -> SqlStep:
        """The step with the present name of its role.

        Raises:
            StepFailed: the role was dropped, or is a superuser, whose steps are not allowed.
        """
        submitter = await self._desk.submitter(step.workflow_id)
        if submitter.name is None:
            raise role_is_gone(step.workflow_id, step.submitted_by)
        if submitter.is_superuser and not await self._desk.allows_superusers():
            raise superuser_refused(submitter.name)
        if submitter.name != step.submitted_by:
            self._renamed[step.workflow_id] = submitter.name
            if len(self._renamed) > _REMEMBERED:
                self._renamed.popitem(last=False)
        return replace(step, submitted_by=submitter.name)


def role_is_gone(workflow_id: str, name: str) -> StepFailed:
    """The failure of a step whose role was dropped."""
    return StepFailed(
        f"Instance {workflow_id}: submitted_by role no longer exists in pg_roles",
        {
            "hint": f"it was called '{name}' and has been dropped; start the workflow again as another "
            "role"
        },
    )
