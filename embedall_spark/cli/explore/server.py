"""The page's server: Starlette on 127.0.0.1, behind a token in the address."""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedall_spark.errors import EmbedallError, SetupError
from embedall_spark.vectors import row_array

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from starlette.requests import Request

    from embedall_spark.cli.explore.space import Space

    Endpoint = Callable[[Request], Awaitable[Response]]

MAX_UPLOAD = 20 << 20
_MAX_HITS = 200
_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_HEADERS = {
    # Nothing is loaded from elsewhere, and ids from data can start no script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class _Page:
    """What the page asks for, about some tables."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._spaces = spaces

    def _space(self, request: Request) -> Space:
        return self._spaces[int(request.query_params.get("table", 0))]

    async def file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        known = resources.files(__package__).joinpath("page")
        if name not in {entry.name for entry in known.iterdir()}:
            return Response("not found", 404)
        return Response(known.joinpath(name).read_bytes(), media_type=_TYPES[name.rpartition(".")[2]])

    async def tables(self, _: Request) -> Response:
        return JSONResponse([space.about() for space in self._spaces])

    async def points(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(_points, self._space(request)))

    async def places(self, request: Request) -> Response:
        _, values = await run_in_threadpool(lambda: self._space(request).points)
        return Response(values.tobytes(), media_type="application/octet-stream")

    async def resolve(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._space(request).resolve, request.query_params["text"]))

    async def ask(self, request: Request) -> Response:
        body: dict[str, Any] = await request.json()
        n = max(1, min(_MAX_HITS, int(body.get("n", 20))))
        where, kind = str(body.get("where", "")), str(body.get("kind", ""))
        return JSONResponse(await run_in_threadpool(self._space(request).ask, body["chips"], where, kind, n))

    async def picture(self, request: Request) -> Response:
        content = await run_in_threadpool(self._space(request).picture, request.query_params["id"])
        return Response("no picture", 404) if content is None else Response(content, media_type="image/png")

    async def drop(self, request: Request) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_UPLOAD:
                raise ValueError(f"the picture has more than {MAX_UPLOAD >> 20} MiB")
        return JSONResponse(await run_in_threadpool(self._space(request).drop, bytes(content)))


def application(spaces: Sequence[Space], token: str) -> Starlette:
    """Return the application that shows some tables to whoever knows a token."""
    page = _Page(spaces)
    get = {"": page.file, "page/{name}": page.file, "tables": page.tables, "points": page.points}
    get |= {"places": page.places, "resolve": page.resolve, "picture": page.picture}
    post = {"ask": page.ask, "drop": page.drop}
    routes = [
        Route(f"/{{token}}/{path}", _guarded(endpoint, token), methods=[method])
        for method, endpoints in (("GET", get), ("POST", post))
        for path, endpoint in endpoints.items()
    ]
    # A page elsewhere whose name leads here must not read the tables.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def _guarded(endpoint: Endpoint, token: str) -> Endpoint:
    """Return an endpoint that needs the token, tells errors as JSON, and has the headers of all answers."""

    async def answer(request: Request) -> Response:
        if not secrets.compare_digest(str(request.path_params["token"]).encode(), token.encode()):
            return Response("not found", 404)
        try:
            response = await endpoint(request)
        except (EmbedallError, ValueError, KeyError, IndexError, TypeError) as error:
            response = JSONResponse({"error": str(error)}, 400)
        response.headers.update(_HEADERS)
        return response

    return answer


@contextmanager
def listening(app: Starlette, host: str, port: int) -> Iterator[tuple[Callable[[], None], int]]:
    """Yield a function that serves an application until Ctrl-C, and the port.

    Raises:
        SetupError: the port is in use.
    """
    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SetupError(f"--port {port}: cannot be used ({error.strerror}); give another one, or 0") from None
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))

    def run() -> None:
        try:
            asyncio.run(server.serve([listener]))
        except KeyboardInterrupt:
            return

    with listener:
        yield run, listener.getsockname()[1]


def _points(space: Space) -> dict[str, Any]:
    """Return ids, titles and groups of the points on the map."""
    rows, _ = space.points
    ids = space.vectors.columns["id"].take(row_array(rows)).to_pylist()
    colors = {name: {"groups": groups, "codes": codes.tolist()} for name, (groups, codes) in space.colors.items()}
    return {"ids": ids, "titles": [space.title_of.get(name) or name for name in ids], "colors": colors}
