"""Signing in with tokens of Microsoft Entra ID, over TLS; the issuer is a small server of the test."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg.conninfo import conninfo_to_dict

from duroxide import PostgresEntraOptions, PostgresProvider, ProviderError
from tests.fixtures.postgres import Database

SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


class Issuer:
    """Gives a token, as the endpoint for managed identities of a web app in Azure does."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.asked_for: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.headers["X-IDENTITY-HEADER"] == "secret"
                issuer.asked_for += parse_qs(urlsplit(self.path).query)["resource"]
                body = {
                    "access_token": issuer.token,
                    "expires_on": str(int(time.time()) + 3600),  # noqa: TID251  # as an issuer has it
                    "resource": "x",
                    "token_type": "Bearer",
                }
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"


@pytest.fixture
def issuer(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    issuer = Issuer(str(conninfo_to_dict(database.dsn)["password"]))
    monkeypatch.setenv("IDENTITY_ENDPOINT", issuer.url)
    monkeypatch.setenv("IDENTITY_HEADER", "secret")
    threading.Thread(target=issuer.server.serve_forever, args=(0.01,), daemon=True).start()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    began = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host[0].isdigit():
        names = [x509.IPAddress(ipaddress.ip_address(host))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, key_file = folder / f"{host}.crt", folder / f"{host}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key_file


@asynccontextmanager
async def behind_tls(dsn: str, certificate: Path, key: Path) -> AsyncIterator[int]:
    """The port of a listener that speaks TLS, and passes on to the server of `dsn`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    parameters = conninfo_to_dict(dsn)
    host, port = str(parameters["host"]), int(str(parameters.get("port") or 5432))
    serving: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        server_writer: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            assert await reader.readexactly(8) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
            if host.startswith("/"):
                path = f"{host}/.s.PGSQL.{port}"
                server_reader, server_writer = await asyncio.open_unix_connection(path)
            else:
                server_reader, server_writer = await asyncio.open_connection(host, port)
            both = [pump(reader, server_writer), pump(server_reader, writer)]
            pumps = [asyncio.create_task(one) for one in both]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that does not trust us, or that has gone
        finally:
            for one in pumps:
                one.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            if server_writer is not None:
                server_writer.close()
                with suppress(OSError):
                    await server_writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if serving:  # the clients have gone, so these end
            await asyncio.wait(serving, timeout=10)


def names(database: Database) -> tuple[str, str]:
    parameters = conninfo_to_dict(database.dsn)
    return str(parameters["dbname"]), str(parameters["user"])


async def test_a_token_of_a_managed_identity_opens_a_verified_connection(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("PGSSLROOTCERT", str(certificate))
    async with behind_tls(database.dsn, certificate, key) as port:
        provider = PostgresProvider.connect_with_schema_and_entra(
            "127.0.0.1", port, *names(database), "tenant"
        )
        await provider.start()
        assert await provider.read_status(["nobody"]) == {}
        await provider.commit([])
        await provider.close()
    assert issuer.asked_for == ["https://ossrdbms-aad.database.windows.net"]  # once for all


@pytest.mark.parametrize("trusted", ["public authorities", "another host"])
async def test_a_server_that_can_not_be_verified_gets_no_token(
    trusted: str,
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = "127.0.0.1" if trusted == "public authorities" else "db.example.com"
    certificate, key = make_certificate(tmp_path, host)
    if trusted == "another host":
        monkeypatch.setenv("PGSSLROOTCERT", str(certificate))
    else:
        monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    async with behind_tls(database.dsn, certificate, key) as port:
        provider = PostgresProvider.connect_with_entra("127.0.0.1", port, *names(database))
        with pytest.raises(ProviderError, match=r"certificate verify failed|does not match host"):
            await provider.start()
        await provider.close()


async def test_an_issuer_that_refuses_is_quoted(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    class Refusing:
        def get_token(self, *_: str) -> None:
            raise RuntimeError("AADSTS700016: no such application")

    options = PostgresEntraOptions(credential=Refusing())
    provider = PostgresProvider.connect_with_entra("127.0.0.1", 1, "d", "u", options)
    with pytest.raises(ProviderError, match="AADSTS700016") as caught:
        await provider.start()
    assert caught.value.retryable
    await provider.close()


def test_without_the_package_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['azure'] = None; sys.modules['azure.identity'] = None\n"
        "from duroxide import PostgresProvider\n"
        "PostgresProvider.connect_with_entra('h', 5432, 'd', 'u')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith(
        "pip install 'pg-durable[entra]', or give PostgresEntraOptions a credential"
    )
