"""A small node for the tests of nginx: it keeps a journal of what reached it, and dies when asked to.

Run as `python nginx_upstream.py NAME PORT JOURNAL`. The first process that is asked to die does, in the middle of
the request; every later one answers, so that a request that is repeated is answered with 200.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

EVENTS = 3


def build(name: str, journal: Path) -> Starlette:
    """The application; `journal` is a file that all processes of a test append to."""

    def note(kind: str, headers: dict[str, str]) -> None:
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "kind": kind, "headers": headers}) + "\n")

    async def echo(request: Request) -> Response:
        body = await request.body()
        if journal.with_suffix(f".unready-{name}").exists():
            note(f"refused {request.method}", dict(request.headers))
            return JSONResponse({"detail": name}, status_code=503, headers={"Retry-After": "3"})
        note(f"{request.method} {request.url.path}", dict(request.headers))
        return JSONResponse({"name": name, "headers": dict(request.headers), "bytes": len(body)})

    async def die(request: Request) -> Response:
        await request.body()
        note(f"{request.method} {request.url.path}", dict(request.headers))
        try:
            journal.with_suffix(".dead").touch(exist_ok=False)
        except FileExistsError:
            return JSONResponse({"name": name})
        os._exit(1)

    async def events(_: Request) -> Response:
        async def lines() -> AsyncIterator[str]:
            for number in range(EVENTS):
                yield f"data: {number}\n\n"
                # The next event is only sent when the test says that it has read this one.
                while not journal.with_suffix(f".read{number}").exists():  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)

        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)

    async def socket(websocket: WebSocket) -> None:
        if journal.with_suffix(f".full-{name}").exists():
            note("refused websocket", dict(websocket.headers))
            await websocket.send_denial_response(
                JSONResponse({"detail": name}, status_code=503, headers={"Retry-After": "3"})
            )
            return
        note("websocket", dict(websocket.headers))
        await websocket.accept()
        await websocket.send_text(name)
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            return

    return Starlette(
        routes=[
            Route("/api/die", die, methods=["GET", "POST"]),
            Route("/api/events", events),
            Route("/{path:path}", echo, methods=["GET", "POST", "PUT"]),
            WebSocketRoute("/{path:path}", socket),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1], Path(sys.argv[3])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
