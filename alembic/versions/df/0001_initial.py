"""tables, functions and operators of the first release"""

from __future__ import annotations

from duroxide_pg.revisions import run_frozen_sql, target_schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen_sql(__file__, target_schema())


def downgrade() -> None:
    raise NotImplementedError("restore a backup: data of a later release can't be carried back")
