"""A backend that serves page.html and issues the visitor's token. Run: .venv/bin/python examples/backend.py"""

import time
from pathlib import Path

import jwt
from aiohttp import web

SECRET = Path("jwt.secret").read_text().strip()  # the file that GATEWAY_JWT_SECRET_FILE names


async def token(request: web.Request) -> web.Response:
    visitor = "u-17"  # here you know who is asking: take it from your own session, never from the request's body
    claims = {"sub": visitor, "shop": "test-shop", "exp": int(time.time()) + 900}
    return web.json_response({"token": jwt.encode(claims, SECRET, algorithm="HS256")})


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).parent / "page.html")


app = web.Application()
app.add_routes([web.get("/", page), web.get("/token", token)])
if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8000)
