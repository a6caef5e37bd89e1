"""A real browser (Chromium), and a broker for it in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from broker_parties import Place, running

from sealserve.broker.server import Broker


def chromium() -> str:
    """The browser's program; skips the test where there is none."""
    pytest.importorskip("playwright", reason="Playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed: on Debian, apt-get install chromium")
    return found


class Thread:
    """A broker that runs in a thread's event loop."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self.broker, self._loop = broker, loop

    @property
    def url(self) -> str:
        assert self.broker.admin_address is not None
        return f"https://localhost:{self.broker.admin_address.port}"

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the broker's loop."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)


@contextlib.contextmanager
def broker_thread(place: Place) -> Iterator[Thread]:
    ready: list[Thread] = []
    started, stop = threading.Event(), asyncio.Event()

    async def body() -> None:
        async with running(place) as broker:
            ready.append(Thread(broker, asyncio.get_running_loop()))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(body(),))
    thread.start()
    assert started.wait(20)
    try:
        yield ready[0]
    finally:
        ready[0]._loop.call_soon_threadsafe(stop.set)
        thread.join(20)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    program = chromium()
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def page_of(browser: Any, *, outside: list[str], errors: list[str], **options: Any) -> Iterator[Any]:
    """A page of its own.

    :param outside: gets what it wanted from elsewhere; nothing of it is fetched. :param errors: what it complained of.
    """
    context = browser.new_context(ignore_https_errors=True, **options)

    def guard(route: Any) -> None:
        if route.request.url.startswith("https://localhost:"):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in {"error", "warning"} else None)
    try:
        yield page
    finally:
        context.close()
