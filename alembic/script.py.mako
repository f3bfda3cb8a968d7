"""${message}"""

from __future__ import annotations

from duroxide_pg.revisions import run_frozen_sql, target_schema

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    run_frozen_sql(__file__, target_schema())


def downgrade() -> None:
    raise NotImplementedError("restore a backup: data of a later release can't be carried back")
