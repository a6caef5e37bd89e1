"""The application: routes, and what happens to every request before and after."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from aiohttp import web

from sealserve.broker.admin.api import OPERATIONS, Call, Operation
from sealserve.broker.admin.authentication import Administrator, Authenticator
from sealserve.broker.admin.bodies import checked, json_object
from sealserve.broker.admin.fleet import Fleet
from sealserve.broker.admin.health import Health
from sealserve.broker.admin.metrics import CONTENT_TYPE as METRICS_TYPE
from sealserve.broker.admin.metrics import Metrics
from sealserve.broker.admin.openapi import describe
from sealserve.broker.admin.problems import HttpError, problem
from sealserve.broker.admin.protection import HEADERS, check_host, check_origin
from sealserve.broker.grants import LiveGrants
from sealserve.broker.store import Store
from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger

BODY_LIMIT = 512 * 1024
_BODY_SECONDS = 10.0
_SECONDS = 60.0
LONG_SECONDS = 600.0
_EXPORT_PIECE = 500
_log = get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONSOLE = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True)
class Services:
    """What the application speaks for.

    :param names: DNS names that it goes by. :param threads: where what waits is done, beside the enclaves' threads.
    """

    store: Store
    grants: LiveGrants
    fleet: Fleet
    health: Health
    metrics: Metrics
    authenticator: Authenticator
    names: Collection[str]
    threads: Executor
    open_metrics: bool = False


class Application:
    """Handlers of all routes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._long = asyncio.Lock()

    def make(self) -> web.Application:
        """The application as aiohttp serves it."""
        application = web.Application(middlewares=[self._answered], client_max_size=BODY_LIMIT)
        application.on_response_prepare.append(_protect)
        for operation in OPERATIONS:
            application.router.add_route(operation.method, operation.path, partial(self._operate, operation))
        for path, (name, kind) in CONSOLE.items():
            body = files(__package__).joinpath("console", name).read_bytes()
            application.router.add_get(path, partial(_static, body, kind))
        application.router.add_get("/v1/audit/export", self._export)
        application.router.add_get("/v1/openapi.json", self._openapi)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", _alive)
        application.router.add_get("/readyz", self._ready)
        return application

    @web.middleware
    async def _answered(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Every answer, whatever goes wrong."""
        try:
            host = check_host(request, self._services.names)
            if request.path not in CONSOLE:  # a link on another page may lead to the console
                check_origin(request, host)
            answer = await handler(request)
        except web.HTTPException as error:
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            status = HTTPStatus(error.status)
            answer = problem(HttpError(status, _HTTP_TEXTS.get(status, status.phrase.lower()), headers=headers))
        except SealserveError as error:
            answer = problem(error)
        except TimeoutError:
            answer = problem(HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "this took too long", reason="too-slow"))
        except Exception:  # noqa: BLE001 - a defect in one handler must not end the server
            _log.exception("administration-failed", extra={"fields": {"path": request.rel_url.raw_path}})
            answer = problem(HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect; the broker's log has it"))
        self._services.metrics.requests[_method(request), answer.status] += 1
        return answer

    async def _operate(self, operation: Operation, request: web.Request) -> web.Response:
        who = self._services.authenticator.require(request, operation.role)
        call = Call(
            store=self._services.store,
            grants=self._services.grants,
            fleet=self._services.fleet,
            actor=who.actor,
            path=request.match_info,
            body=None if operation.body is None else checked(operation.body, await _json(request)),
            query=checked(operation.query, _query(request)),
            expected_revision=_expected_revision(request) if operation.revised else None,
        )
        try:
            if operation.long:
                value = await self._one_at_a_time(partial(operation.run, call))
            else:
                value = await self._in_thread(partial(operation.run, call))
        finally:
            if operation.role == "operator":
                _tell(who, request)
        headers = {"ETag": f'"{value["revision"]}"'} if operation.revised else {}
        return web.json_response(value, status=operation.status, headers=headers)

    async def _in_thread(self, run: Callable[[], Any], *, seconds: float = _SECONDS) -> Any:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            return await loop.run_in_executor(self._services.threads, run)

    async def _one_at_a_time(self, run: Callable[[], Any]) -> Any:
        if self._long.locked():
            raise HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "somebody else has the audit log verified now",
                reason="busy",
                headers={"Retry-After": "10"},
            )
        async with self._long:
            return await self._in_thread(run, seconds=LONG_SECONDS)

    async def _openapi(self, request: web.Request) -> web.Response:
        self._services.authenticator.require(request, "viewer")
        return web.json_response(describe(OPERATIONS))

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._services.open_metrics:
            self._services.authenticator.require(request, "viewer")
        body = await self._in_thread(self._services.metrics.text)
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

    async def _ready(self, _request: web.Request) -> web.Response:
        found = await self._in_thread(self._services.health.ready)
        return web.json_response(found, status=200 if found["ready"] else 503)

    async def _export(self, request: web.Request) -> web.StreamResponse:
        """The whole audit log, as it is now, one record a line."""
        self._services.authenticator.require(request, "viewer")
        end, _ = await self._in_thread(self._services.store.audit_head)
        answer = web.StreamResponse(headers={"Content-Type": "application/jsonl", "Cache-Control": "no-store"})
        await answer.prepare(request)
        async for lines in self._pieces(end):
            async with asyncio.timeout(_SECONDS):
                await answer.write(lines)
        await answer.write_eof()
        return answer

    async def _pieces(self, end: int) -> AsyncIterator[bytes]:
        """The lines up to a number, some at a time: a slow reader must not hold a transaction open."""
        for after in range(0, end, _EXPORT_PIECE):

            def read(after: int = after) -> bytes:
                with self._services.store.audit_lines(after=after, limit=min(_EXPORT_PIECE, end - after)) as lines:
                    return b"".join(line + b"\n" for line in lines)

            yield await self._in_thread(read)


_HTTP_TEXTS = {
    HTTPStatus.NOT_FOUND: "there is no such page",
    HTTPStatus.METHOD_NOT_ALLOWED: "the page does not know this method",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"a body has at most {BODY_LIMIT} bytes",
}


async def _protect(_request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update(HEADERS)
    answer.headers.setdefault("Cache-Control", "no-store")


async def _static(body: bytes, kind: str, _request: web.Request) -> web.Response:
    return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _tell(who: Administrator, request: web.Request) -> None:
    event(_log, logging.INFO, "administered", actor=who.actor, method=request.method, path=request.rel_url.raw_path)


def _method(request: web.Request) -> str:
    """For a label: strangers do not invent new ones."""
    return request.method if request.method in {"GET", "HEAD", "POST", "PUT", "DELETE"} else "other"


async def _json(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return json_object(await request.read())
    except TimeoutError as error:
        raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from error


def _query(request: web.Request) -> dict[str, str]:
    if len(set(request.query)) < len(request.query):
        raise HttpError(HTTPStatus.BAD_REQUEST, "a query parameter is given twice", reason="bad-query")
    return dict(request.query)


def _expected_revision(request: web.Request) -> int | None:
    """What ``If-Match`` or ``If-None-Match: *`` demand: the revision that is to be changed, 0 for none yet."""
    if request.headers.get("If-None-Match", "").strip() == "*":
        return 0
    given = request.headers.get("If-Match")
    if given is None:
        return None
    match = re.fullmatch(r'"?([0-9]{1,15})"?', given.strip())
    if match is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, "If-Match must be the ETag of an earlier answer", reason="bad-if-match")
    return int(match[1])
