"""A real nginx in front of a gateway, with the lines that an operator may have in its configuration."""

import asyncio
import contextlib
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.transports.raw import port_of
from tests.waiting import until

UPGRADES = """
proxy_http_version 1.1;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $connection_upgrade;
"""
"""What lets WebSocket through; without it nginx speaks HTTP/1.0 to the gateway and drops the upgrade."""

_CONFIGURATION = """
daemon off;
master_process on;
worker_processes 1;
worker_shutdown_timeout 3s;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    {http}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{gateway};
            {location}
        }}
    }}
}}
"""


class Nginx:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    def reload(self) -> None:
        """Lets new workers take over. The old ones end with their last connection, or after three seconds."""
        self.process.send_signal(signal.SIGHUP)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _folder() -> Path:
    """Not the test's own: nginx's workers run as another user where the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="nginx-"))
    folder.chmod(0o755)
    return folder


@contextlib.asynccontextmanager
async def nginx(command: str, gateway: str, port: int, *, location: str = "", http: str = "") -> AsyncIterator[Nginx]:
    """nginx at `port` in front of the gateway at that URL, with more lines in `location` and in `http`."""
    folder = _folder()
    written = _CONFIGURATION.format(folder=folder, port=port, gateway=port_of(gateway), location=location, http=http)
    (folder / "nginx.conf").write_text(written, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        command, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until(lambda: _accepts(port), within=5)
        yield Nginx(process, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 10)
        shutil.rmtree(folder)
