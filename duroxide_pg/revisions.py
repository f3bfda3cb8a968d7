"""What revisions do: run their frozen SQL, and build indexes while workers go on."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from duroxide_pg.lineage import fill, quoted


def run_frozen_sql(revision_file: str, schema: str, **identifiers: str) -> None:
    """Run the `.sql` file beside a revision, in the revision's transaction.

    Args:
        revision_file: the revision's `__file__`.
        schema: replaces `{schema}`, quoted.
        identifiers: further placeholders and the identifiers that replace them.
    """
    text = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # revisions run online: the schema decides what is done
    connection.execute(fill(text, schema=schema, **identifiers))


def build_index(name: str, table: str, definition: str) -> None:
    """Make an index while workers go on: outside of the revision's transaction, and again if it broke off.

    What the revision did before is committed first, so this comes last in one, or alone. A build that was
    interrupted leaves an index that is not valid: it is removed and built anew. Waits for transactions
    that are open; the migration lock is polled (`migrate.exclusive`), so nobody who waits for that is one.

    Args:
        name, table: in the schema that the revision is for.
        definition: what follows the table's name, such as "(created_at) where parent is null".
    """
    schema = target_schema()
    context = op.get_context()
    with context.autocommit_block():
        connection = op.get_bind().connection.driver_connection
        assert connection is not None  # revisions run online
        is_valid = connection.execute(
            "select i.indisvalid from pg_index as i where i.indexrelid = to_regclass(%s)",
            [quoted(schema, name)],
        ).fetchone()
        if is_valid == (False,):
            connection.execute(f"drop index concurrently {quoted(schema, name)}")
        if is_valid != (True,):
            connection.execute(
                f"create index concurrently {quoted(name)} on {quoted(schema, table)} {definition}"
            )


def target_schema() -> str:
    """The schema that a running revision is for."""
    schema: str | None = op.get_context().version_table_schema
    assert schema is not None
    return schema
