"""What a client may ask for: how often, how many at a time, how many bytes and pixels together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

CLIENTS = 10_000  # addresses that are remembered
BURST = 2  # seconds' worth of photos that a client may send at once


class Refused(Exception):
    """A request that is not answered. status: of HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Rate:
    """Photos a second from each client address (a token bucket each).

    rate: 0 for any number. clock: seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self.most = max(1.0, BURST * rate)
        self.clients: dict[str, tuple[float, float]] = {}  # address: photos it may send, when

    def take(self, client: str) -> None:
        """Count a photo. Raises Refused if the client has sent too many."""
        if not self.rate:
            return
        now = self.clock()
        if len(self.clients) >= CLIENTS and client not in self.clients:
            self._forget(now)
        left, since = self.clients.get(client, (self.most, now))
        left = min(self.most, left + (now - since) * self.rate)
        self.clients[client] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise Refused(429, f"more than {self.rate:g} photos a second; send them more slowly")

    def _forget(self, now: float) -> None:
        """Forget the clients that have not sent anything for a while, or else all."""
        ends = now - self.most / self.rate
        kept = {name: each for name, each in self.clients.items() if each[1] > ends}
        self.clients = kept if len(kept) < CLIENTS else {}


class InHand:
    """The requests that are being answered."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Inside the `with`, a request is in hand. Raises Refused if there are too many."""
        if self.count >= self.most:
            raise Refused(503, f"busy: {self.count} photos are in hand; try again")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class Budget:
    """Something that all requests share, such as pixels in memory; who wants more waits.

    A request alone gets whatever it wants.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self.freed = asyncio.Event()

    @asynccontextmanager
    async def use(self, amount: int) -> AsyncIterator[Callable[[int], None]]:
        """Wait until this amount is free, and use it inside the `with`. Yields a function that
        makes the amount smaller."""
        while self.used and self.used + amount > self.most:
            self.freed.clear()
            await self.freed.wait()
        self.used += amount

        def shrink(now: int) -> None:
            nonlocal amount
            self.used -= amount - now
            amount = now
            self.freed.set()

        try:
            yield shrink
        finally:
            shrink(0)
