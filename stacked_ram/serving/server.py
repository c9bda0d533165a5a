"""A server that looks at photos: `POST /look` gives what `predict` says of one, as JSON.

    upload -> file, header, pixels (threads) -> queue -> model, in batches (one thread) -> JSON

Every limit is checked before what it limits is done: the bytes while they arrive, the pixels from
the header. No answer holds a path of this machine, and no photo is kept.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from stacked_ram.evaluation.predict import MAX_AHEAD, Row
from stacked_ram.images.lazy import LazyPhoto
from stacked_ram.images.uploads import MOST_BYTES, TooLarge
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.runtime.version import __version__
from stacked_ram.serving.answers import PHOTO, REFUSALS, Look, answer_of
from stacked_ram.serving.batcher import Batcher
from stacked_ram.serving.figures import Figures
from stacked_ram.serving.limits import Budget, InHand, Rate, Refused
from stacked_ram.serving.looking import Looker, Sent, draw
from stacked_ram.serving.settings import Settings
from stacked_ram.viz.app_guards import own_names

log = logging.getLogger(__name__)

MOST_TOGETHER = 200_000_000  # bytes of all photos that are on their way or in hand
CONNECTIONS = 1000
AFTER = 5  # seconds that a request in hand is given beyond its limit when the server ends
SLACK = 10_000  # bytes of a multipart body around the photo


class Service:
    """A model, its threads and its limits, from the server's start to its end."""

    def __init__(self, loaded: LoadedRun, settings: Settings) -> None:
        self.loaded, self.settings = loaded, settings
        self.kept = tempfile.TemporaryDirectory(prefix="stacked_ram_serve_")
        self.looker = Looker(loaded, settings, Path(self.kept.name))
        self.figures = Figures()
        self.rate, self.in_hand = Rate(settings.rate), InHand(settings.queue)
        self.pixels = Budget(MAX_AHEAD)
        self.bytes = 0
        self.decoders = ThreadPoolExecutor(max(2, os.cpu_count() or 1), "decode")
        self.model_thread = ThreadPoolExecutor(1, "model")
        self.artist = ThreadPoolExecutor(1, "draw")  # matplotlib's settings are not of one thread
        self.batcher: Batcher[Sent, tuple[Row, float]] = Batcher(
            self._look, self.model_thread, settings.batch_size, settings.batch_wait / 1000
        )

    def _look(self, photos: list[Sent]) -> list[tuple[Row, float]]:
        self.figures.batches.observe(len(photos))
        return self.looker.look(photos)

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """The life of the server: requests come only inside the `with`."""
        await asyncio.get_running_loop().run_in_executor(self.model_thread, self.looker.warm_up)
        task = asyncio.create_task(self.batcher.run())
        try:
            yield
        finally:
            task.cancel()
            for threads in (self.decoders, self.model_thread, self.artist):
                threads.shutdown(wait=True, cancel_futures=True)
            self.kept.cleanup()

    async def answer(self, request: Request, picture: bool) -> tuple[dict[str, Any], bytes | None]:
        """The answer to a photo, and its picture if it is wanted. Raises Refused."""
        started, status = time.monotonic(), 500
        try:
            found = await self.admitted(request, picture)
            status = 200
            self.figures.seconds.observe(time.monotonic() - started)
            return found
        except Refused as error:
            status = error.status
            raise
        finally:
            self.figures.requests.labels(status).inc()

    async def admitted(
        self, request: Request, picture: bool
    ) -> tuple[dict[str, Any], bytes | None]:
        """The same, within the limits on requests and time."""
        self.rate.take(request.client.host if request.client else "")
        with self.in_hand.one(), self.figures.in_hand.track_inprogress():
            limit = self.settings.time_limit
            try:
                async with asyncio.timeout(limit):
                    content = await self.received(request)
                    try:
                        return await self.looked_at(content, picture)
                    finally:
                        self.bytes -= len(content)
            except TimeoutError:
                raise Refused(503, f"no answer within {limit:g} s; try again later") from None
            except ClientDisconnect:
                raise Refused(400, "the photo did not arrive whole") from None

    async def received(self, request: Request) -> bytes:
        """The photo of a request; its bytes are counted from then on. Raises Refused."""
        kind = request.headers.get("content-type", "")
        multipart = kind.startswith("multipart/form-data")
        most = MOST_BYTES + (SLACK if multipart else 0)
        arrived = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal arrived
            async for chunk in request.stream():
                arrived += len(chunk)
                self.bytes += len(chunk)
                if arrived > most:
                    raise Refused(413, f"more than {MOST_BYTES // 1_000_000} MB; reduce it first")
                if self.bytes > MOST_TOGETHER:
                    raise Refused(503, "busy: too many photos are on their way; try again")
                yield chunk

        try:
            if multipart:
                content = await photo_of_form(request, counted())
            else:
                content = b"".join([chunk async for chunk in counted()])
            if not content:
                raise Refused(400, "no photo: send its bytes as the body, or as a file of a form")
            self.bytes += len(content)
            return content
        finally:
            self.bytes -= arrived

    async def looked_at(self, content: bytes, picture: bool) -> tuple[dict[str, Any], bytes | None]:
        """Raises Refused for what is wrong with the photo, or with this machine."""
        run = asyncio.get_running_loop().run_in_executor
        sent: Sent | None = None
        try:
            sent = await run(self.decoders, self.looker.store, content)
            async with self.pixels.use(sent.pixels) as shrink:
                await run(self.decoders, self.looker.open, sent)
                shrink(sent.held)
                row, gmacs = await self.batcher.ask(sent)
                if row.error:
                    # read by region, it may show only now that it is damaged
                    lazy = isinstance(sent.opened, LazyPhoto)
                    raise Refused(400 if lazy else 500, sent.plain(row.error))
                png = None
                if picture:
                    record = await run(self.model_thread, self.looker.record, sent)
                    png = await run(self.artist, draw, record)
        except UserError as error:
            raise Refused(413 if isinstance(error, TooLarge) else 400, str(error)) from None
        except OSError as error:  # of this machine: what is wrong with a photo is a UserError
            log.error("a photo could not be kept: %s", error)
            raise Refused(503, f"the server cannot keep the photo ({error.strerror})") from None
        finally:
            if sent is not None:
                sent.remove()
        self.figures.glimpses.inc(row.glimpses)
        for name, _ in row.top[:1] if row.labels is None else row.labels:
            self.figures.classes.labels(name).inc()
        return answer_of(row, sent.size, gmacs), png


class FormInMemory(MultiPartParser):
    """Keeps a file of a form in memory, whatever its size: it is limited already."""

    spool_max_size = MOST_BYTES + SLACK


async def photo_of_form(request: Request, body: AsyncIterator[bytes]) -> bytes:
    """The one file of a multipart form. Raises Refused."""
    parser = FormInMemory(request.headers, body, max_files=1, max_fields=8)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary
        raise Refused(400, f"not a valid form ({error}): send one file") from None
    async with contextlib.AsyncExitStack() as stack:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                stack.push_async_callback(value.close)
                return await value.read()
    return b""


def create_app(loaded: LoadedRun, settings: Settings, host: str = "127.0.0.1") -> FastAPI:
    """Make the server's application. host: that it will listen on.

    Raises UserError for settings that do not fit the model.
    """
    service = Service(loaded, settings)
    app = FastAPIOffline(
        title=f"stacked_ram: {model_name(loaded)}",
        description="Send a photo; get its class, and where the model looked.",
        version=__version__,
        redoc_url=None,
        lifespan=service.running,
        middleware=own_names(host),
    )

    @app.post(
        "/look", response_model=Look, response_model_exclude_none=True, responses=REFUSALS,
        openapi_extra={"requestBody": PHOTO},
    )  # fmt: skip
    async def look(
        request: Request,
        picture: Annotated[bool, Query(description="also draw where the model looked")] = False,
    ) -> Any:
        """Look at a photo: its bytes as the body, or one file of a multipart form."""
        answer, png = await service.answer(request, picture)
        return answer if png is None else answer | {"picture": base64.b64encode(png).decode()}

    @app.post(
        "/look.png", response_class=Response, openapi_extra={"requestBody": PHOTO},
        responses=REFUSALS | {200: {"content": {"image/png": {}}}},
    )  # fmt: skip
    async def look_png(request: Request) -> Response:
        """Look at a photo, and answer with the picture of where the model looked."""
        _, png = await service.answer(request, True)
        return Response(png, media_type="image/png")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Say that the server is up, and with which model."""
        return {
            "status": "ok",
            "model": model_name(loaded),
            "classes": list(loaded.classes),
            "in_hand": service.in_hand.count,
            "version": __version__,
        }

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times, in the format of Prometheus."""
        return Response(generate_latest(service.figures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def not_here(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{name}: {first['msg']}"}, 400)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server failed at this photo; its log says why"}, 500)

    return app


def model_name(loaded: LoadedRun) -> str:
    """The name of the run's folder, without its path."""
    return loaded.folder.resolve().name


def serve(
    run: str | Path, settings: Settings, *, host: str = "127.0.0.1", port: int = 8000,
    device: str = "auto", fast: bool = False,
) -> None:  # fmt: skip
    """Serve a model until Ctrl-C or SIGTERM; what is in hand then is finished.

    port: 0 for any that is free.

    Raises UserError if the run cannot be used or the port is taken.
    """
    import uvicorn

    app = create_app(load_run(run, device, fast=fast), settings, host)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: cannot be used ({error})") from None
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=round(settings.time_limit) + AFTER,
        )
    )  # fmt: skip
    # uvicorn gives a signal back once it has ended: that is the wanted end, not another one
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    print(
        f"looks at photos sent to {address}/look (try {address}/docs; Ctrl-C ends it)", flush=True
    )
    server.run(sockets=[listener])
    if not server.started:
        raise RunFailed("the server could not start; the lines above say why")
