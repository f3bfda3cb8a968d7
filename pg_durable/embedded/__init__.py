"""A private PostgreSQL for development and tests, and the search for the server to use.

Source: docs/reference/embedded.md.
"""

from __future__ import annotations

from .errors import EmbeddedServerError, NoServerFound, ServerDidNotStart, UnusableFolder
from .folders import default_data_dir
from .search import Binaries, Dsn, find_binaries, find_dsn, find_server, psql_path
from .server import EmbeddedServer, embedded_server

__all__ = [
    "Binaries",
    "Dsn",
    "EmbeddedServer",
    "EmbeddedServerError",
    "NoServerFound",
    "ServerDidNotStart",
    "UnusableFolder",
    "default_data_dir",
    "embedded_server",
    "find_binaries",
    "find_dsn",
    "find_server",
    "psql_path",
]
