"""The `pg-durable` command, also as `python -m pg_durable`.

Only the standard library is imported here: the library works without click and rich, so the command has
to be able to say that they are missing.
"""

from __future__ import annotations

import sys

NEEDED = ("click", "rich")


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from pg_durable.cli import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in NEEDED:
            raise
        sys.exit(
            f"pg-durable: the command line needs the package '{missing}', which is not installed\n"
            "  To fix it: pip install 'pg-durable[cli]'"
        )
    sys.exit(run())


if __name__ == "__main__":
    main()
