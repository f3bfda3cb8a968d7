"""What can be wrong with a database before any work is done; every message names the remedy."""

from __future__ import annotations

from duroxide.errors import ProviderError


class SetupError(ProviderError):
    """The database can't be used as it is. Permanent: somebody has to do what the remedy says."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__("setup", f"{problem}; {remedy}", False)
        self.args = (problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message


class CannotConnect(SetupError):
    """No server answers at the address, or it does not let us in."""


class ServerTooOld(SetupError):
    """The server is older than the oldest release we support."""


class NotPermitted(SetupError):
    """The role lacks a privilege."""


class SchemaMissing(SetupError):
    """The schema is not there, or has not been migrated to what this release needs."""


class SchemaTooNew(SetupError):
    """The schema was migrated by a later release than this one."""


class SchemaForeign(SetupError):
    """A schema of that name exists and belongs to something else."""


class MigrationBusy(SetupError):
    """Somebody else is migrating the schema and does not finish."""


class ExtraMissing(SetupError):
    """A package that only some need is not installed."""
