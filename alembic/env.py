"""The Alembic environment of every schema: online only, one transaction per revision.

In the process, `duroxide_pg.migrate` passes the connection and the schema and holds the lock. By
hand: `alembic -x dsn=postgresql://... -x schema=duroxide upgrade head`.
"""

from __future__ import annotations

import psycopg
import sqlalchemy as sa
from alembic import context

from duroxide_pg import migrate

attributes = context.config.attributes
options = context.get_x_argument(as_dictionary=True)


def run(connection: sa.Connection, schema: str) -> None:
    found = connection.scalar(
        sa.text("select 1 from pg_namespace where nspname = :schema"), {"schema": schema}
    )
    if found is None:  # IF NOT EXISTS would need the privilege even for a schema that exists
        connection.execute(sa.schema.CreateSchema(schema))
    connection.commit()
    # A temporary object must not be found in place of ours.
    connection.execute(sa.text("select set_config('search_path', 'pg_catalog, pg_temp', false)"))
    connection.commit()
    context.configure(
        connection=connection,
        version_table=migrate.VERSION_TABLE,
        version_table_schema=schema,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def by_hand() -> None:
    dsn, schema = options.get("dsn", ""), options.get("schema", migrate.DEFAULT_SCHEMA)
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool
    )
    with (
        migrate.connect(dsn) as probe,
        migrate.exclusive(probe, schema, wait_s=60),
        engine.connect() as connection,
    ):
        run(connection, schema)


if context.is_offline_mode():
    raise SystemExit("revisions depend on the database: there is no offline mode (--sql)")
if attributes.get("connection") is not None:
    run(attributes["connection"], attributes["schema"])
else:
    by_hand()
