"""The Alembic environment of every schema: online only, one transaction per revision.

In the process, `duroxide_pg.migrate` passes the connection and the schema and holds the lock. By
hand: `alembic -c alembic/alembic.ini -x dsn=postgresql://... -x schema=duroxide upgrade head`.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import context

from duroxide_pg import migrate, upgrading

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
    if "dsn" not in options:
        raise SystemExit("say which database: alembic -x dsn=postgresql://... ")
    dsn = options["dsn"]
    schema = options.get("schema") or context.config.get_main_option("schema")
    ours = migrate.Migrations(
        versions=versions(), schema=schema, remedy="run `alembic upgrade head`"
    )
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: upgrading.open_for_changes(dsn),
        poolclass=sa.NullPool,
    )
    with (
        migrate.connect(dsn, for_changes=True) as probe,
        migrate.exclusive(probe, schema, wait_s=60),
        engine.connect() as connection,
    ):
        found = ours.check(probe)
        ours.refuse_strangers(found)
        if found.state is migrate.State.MISSING and not is_upgrade():
            raise SystemExit(f"the schema {schema!r} is not installed")
        run(connection, schema)


def versions() -> Path:
    """The folder of the revisions; a wheel has them elsewhere than a checkout."""
    named = context.config.get_main_option("version_locations") or ""
    (folder,) = [Path(line) for line in named.split("\n") if Path(line.strip()).is_dir()]
    return folder


def is_upgrade() -> bool:
    command = context.config.cmd_opts.cmd[0]
    return command.__name__ == "upgrade"


if context.is_offline_mode():
    raise SystemExit("revisions depend on the database: there is no offline mode (--sql)")
if attributes.get("connection") is not None:
    run(attributes["connection"], attributes["schema"])
else:
    by_hand()
