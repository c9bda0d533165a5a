"""Collect what many ask for, and do it in batches, one after the other, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Answers items in batches.

    While a batch is worked on, the next one collects; so the window is waited for only by the
    first item that comes to an idle server.

    work: answers a batch, in order; runs in `thread`, which has one worker.
    most: items in a batch. wait: seconds that the first item waits for others.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], list[Answer]],
        thread: ThreadPoolExecutor,
        most: int,
        wait: float,
    ) -> None:
        self.work, self.thread, self.most, self.wait = work, thread, most, wait
        self.asked: asyncio.Queue[tuple[Item, asyncio.Future[Answer]]] = asyncio.Queue()

    async def ask(self, item: Item) -> Answer:
        """Return the answer for an item. Raises what `work` raises for it."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((item, answer))
        return await answer

    async def run(self) -> None:
        """Answer until it is cancelled."""
        while True:
            batch = await self._collect()
            batch = [(item, answer) for item, answer in batch if not answer.done()]  # gave up
            try:
                await self._answer(batch)
            except Exception:  # one of them may be to blame: the others get their answers
                for each in batch:
                    try:
                        await self._answer([each])
                    except Exception as error:
                        if not each[1].done():
                            each[1].set_exception(error)

    async def _collect(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch = [await self.asked.get()]
        ends = asyncio.get_running_loop().time() + self.wait
        with contextlib.suppress(TimeoutError):
            while len(batch) < self.most:
                async with asyncio.timeout_at(ends):  # what waits already is taken even after it
                    batch.append(await self.asked.get())
        return batch

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        if not batch:
            return
        items = [item for item, _ in batch]
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(self.thread, self.work, items)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
