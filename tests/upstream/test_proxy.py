"""The way to Coze through a proxy: by CONNECT for https, by whole URLs for http, with credentials that nobody sees."""

import asyncio
import base64
import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.errors import Code, UpstreamError
from gateway.upstream.protocol import ChatRef
from tests.faults.coze import gateway
from tests.faults.reading import Reader, client
from tests.upstream.conftest import Connect
from tests.upstream.connecting import connecting
from tests.upstream.servers import json_answer, sample, serving, streaming

Key = ec.EllipticCurvePrivateKey
BASIC = "Basic " + base64.b64encode("corp\\user:p@ss:wörd".encode("latin-1")).decode()
USER = "corp%5Cuser:p%40ss%3Aw%C3%B6rd@"
STATE = json_answer(sample("retrieve.json"))


def authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for 127.0.0.1, and the certificate of the authority that signed it."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> bytes:
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(signer, hashes.SHA256())
        )
        return built.public_bytes(serialization.Encoding.PEM)

    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(certificate("a test's authority", signer, signer, ca=True))
    (folder / "server.pem").write_bytes(secret + certificate("127.0.0.1", key, signer, ca=False))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, folder / "ca.pem"


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
async def test_a_gateway_asks_coze_through_the_proxy_and_shows_its_password_to_nobody(
    tmp_path: Path, tls: bool
) -> None:
    context, ca = authority(tmp_path)
    play = streaming(sample("chat-plain.sse"))
    async with connecting(BASIC) as proxy, serving(play, tls=context if tls else None) as coze:
        settings = {
            "GATEWAY_UPSTREAM_PROXY": f"http://{USER}127.0.0.1:{proxy.port}",
            "SSL_CERT_FILE": str(ca),
            "HTTPS_PROXY": "http://127.0.0.1:1",
        }
        async with gateway(tmp_path, coze.url, **settings) as process, client() as session:
            for _ in range(2 if tls else 1):  # the second goes through the same tunnel
                reader = Reader()
                await reader.ask(session, process.url, "?")
                assert reader.last["event"] == "completed"
            said = "\n".join(process.text)
    assert len(coze.requests) == (2 if tls else 1)
    assert all("proxy-authorization" not in request.headers for request in coze.requests)
    if tls:
        assert [head.split("\r\n")[0] for head in proxy.heads] == [f"CONNECT 127.0.0.1:{coze.port} HTTP/1.1"]
        assert "a-token-for-tests" not in "".join(proxy.heads)
    else:
        assert proxy.heads[0].startswith(f"POST http://127.0.0.1:{coze.port}/v3/chat")
    for secret in ("p%40ss", "p@ss", BASIC[6:]):
        assert secret not in said
    assert "config.proxy_ignored" not in said


async def test_another_programs_proxy_changes_nothing_and_the_start_says_so(tmp_path: Path) -> None:
    async with connecting() as proxy, serving(streaming(sample("chat-plain.sse"))) as coze:
        elsewhere = f"http://127.0.0.1:{proxy.port}"
        settings = {"HTTPS_PROXY": elsewhere, "https_proxy": elsewhere, "HTTP_PROXY": elsewhere}
        async with gateway(tmp_path, coze.url, **settings) as process, client() as session:
            line = await process.logged("config.proxy_ignored")
            assert "GATEWAY_UPSTREAM_PROXY" in line["why"]
            assert "HTTPS_PROXY" in line["why"]
            assert [one["event"] for one in process.lines].count("config.proxy_ignored") == 1
            reader = Reader()
            await reader.ask(session, process.url, "?")
            assert reader.last["event"] == "completed"
        assert proxy.heads == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_other_credentials_is_named_and_not_asked_again(connect: Connect, scheme: str) -> None:
    async with (
        connecting(BASIC) as proxy,
        serving(STATE) as coze,
        connect(coze.url.replace("http", scheme, 1), proxy=f"http://u:wrong@127.0.0.1:{proxy.port}") as asking,
    ):
        with pytest.raises(UpstreamError, match=r"GATEWAY_UPSTREAM_PROXY.* 407") as caught:
            await asking.retrieve(ChatRef("1", "2"))
    assert (caught.value.code, caught.value.taken, caught.value.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", False)
    assert coze.requests == []


async def test_a_proxy_that_is_not_there_means_not_taken(connect: Connect, free_port: Callable[[], int]) -> None:
    async with connect("https://api.coze.cn", proxy=f"http://u:secret@127.0.0.1:{free_port()}") as asking:
        with pytest.raises(UpstreamError, match="GATEWAY_UPSTREAM_PROXY") as caught:
            await asking.retrieve(ChatRef("1", "2"))
    assert (caught.value.code, caught.value.taken, caught.value.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP"),
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n", "answered 429"),
    ],
)
async def test_a_proxy_that_can_not_now_is_named_and_asked_again(connect: Connect, answer: bytes, said: str) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with connect("https://api.coze.cn", proxy=f"http://127.0.0.1:{port}") as asking:
            with pytest.raises(UpstreamError, match=rf"GATEWAY_UPSTREAM_PROXY.*{said}") as caught:
                await asking.retrieve(ChatRef("1", "2"))
    assert (caught.value.code, caught.value.taken, caught.value.retryable) == (Code.UPSTREAM_UNAVAILABLE, "no", True)
