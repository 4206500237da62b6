"""A headless Chromium that opens pages, reads them and takes pictures of them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Bokeh's widgets are in shadow trees, which a page's own text leaves out.
TEXT = """(() => {
  const read = node => node.nodeType === Node.TEXT_NODE ? node.data
    : ["SCRIPT", "STYLE"].includes(node.nodeName) ? ""
    : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(read).join(" ");
  return document.title + " " + read(document.body);
})()"""

# What its charts, which are pixels, are drawn from.
DATA = """JSON.stringify(window.Bokeh ? Bokeh.documents.flatMap(page => [...page._all_models.values()])
  .filter(model => model.type === "ColumnDataSource")
  .map(source => Object.fromEntries([...(source.data.entries?.() ?? Object.entries(source.data))]
    .map(([name, values]) => [name, [...values].map(String)]))) : [])"""


class Tab:
    """One page in the browser, spoken to by its debugging protocol."""

    def __init__(self, port: int, url: str) -> None:
        asking = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?{url}", method="PUT")
        with urllib.request.urlopen(asking) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        self._loop = IOLoop(make_current=False)
        self._socket = self._loop.run_sync(lambda: websocket_connect(address, max_message_size=1 << 26))
        self._numbers = itertools.count()

    def wait_for(self, javascript: str, pattern: str, seconds: float = 60.0) -> str:
        """The value of an expression, once a pattern is found in it."""
        deadline = time.monotonic() + seconds
        while True:
            value = str(self._ask("Runtime.evaluate", expression=javascript)["result"].get("value", ""))
            if re.search(pattern, value):
                return value
            assert time.monotonic() < deadline, f"{pattern!r} is not in {value[:2000]!r}"
            time.sleep(0.2)

    def picture(self, path: Path) -> None:
        """A screenshot as a PNG file."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._socket.close()
        self._loop.close()

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)

        async def ask() -> dict[str, Any]:
            await self._socket.write_message(
                json.dumps({"id": number, "method": method, "params": parameters})
            )
            while True:
                message = await self._socket.read_message()
                assert message is not None, "Chromium has gone"
                answer = json.loads(message)
                if answer.get("id") == number:
                    return answer["result"]

        return self._loop.run_sync(ask, timeout=60)


@contextlib.contextmanager
def chromium(folder: Path, width: int = 1500, height: int = 1000) -> Iterator[int]:
    """A browser with its files in a folder; the port that it is told by."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    process = subprocess.Popen(
        [
            str(BINARY),
            *options,
            f"--window-size={width},{height}",
            f"--user-data-dir={folder}",
            "--remote-debugging-port=0",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield _port(folder / "DevToolsActivePort")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def tab(port: int, url: str) -> Iterator[Tab]:
    """A page that is opened and closed."""
    opened = Tab(port, url)
    try:
        yield opened
    finally:
        opened.close()


def _port(file: Path, seconds: float = 60.0) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.1)
    raise AssertionError("Chromium did not start")
