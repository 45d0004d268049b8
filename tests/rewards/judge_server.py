"""A judge behind HTTP on this machine: the server, which counts, and the rewards that ask it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dmpo.rewards import judge

WAIT = 10.0  # seconds; only a failing test waits so long


class JudgeServer(ThreadingHTTPServer):
    """Answers a completion with the number of its ones. Other texts: see `answer`.

    asked: requests by completion. most: the most requests at one time. hold: requests wait until so many are in
    flight, and a little for one more.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.in_flight = self.most = self.hold = 0
        self.change = threading.Condition()
        self.released = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def answer(self, text: str) -> tuple[int, str]:
        """Status and body. flaky: unavailable at the first two requests; down: always; nonsense: a text; slow: late."""
        with self.change:
            self.asked[text] += 1
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            self.change.notify_all()
            if self.hold:
                self.change.wait_for(lambda: self.most >= self.hold, WAIT)
                self.change.wait_for(lambda: self.most > self.hold, 0.1)  # one more would come now
        try:
            if text == "slow":
                self.released.wait(WAIT)
            if text == "down" or (text == "flaky" and self.asked[text] <= 2):
                return 503, "come back later"
            return 200, "very nice!" if text == "nonsense" else str(text.count("1"))
        finally:
            with self.change:
                self.in_flight -= 1


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status, body = self.server.answer(text)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


async def ask(port: int, text: str) -> float:
    """The number that the server answers. Raises ConnectionError for another status, ValueError for no number."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = text.encode()
        writer.write(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        head, _, answer = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    if " 200 " not in head.splitlines()[0]:
        raise ConnectionError(head.splitlines()[0])
    return float(answer)


@judge(in_flight=3, timeout=WAIT, retries=2, backoff=0.001)
async def rated(completion: str, *, port: int, **columns: Any) -> float:
    return await ask(port, completion)


@judge(in_flight=3, timeout=0.1, retries=1, backoff=0.001)
async def impatient(completion: str, *, port: int) -> float:
    return await ask(port, completion)


@judge(in_flight=2, timeout=WAIT, retries=0)
async def rated_together(completions: list[str], *, port: int) -> list[float]:
    return list(await asyncio.gather(*(ask(port, text) for text in completions)))
