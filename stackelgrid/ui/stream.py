"""The events of a run as a stream of server-sent events, live or of a run that has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from stackelgrid.store.summary import summarise
from stackelgrid.testbed.run_lock import is_played
from stackelgrid.ui.events import EventFile
from stackelgrid.ui.history import recall
from stackelgrid.ui.words import describe_end

_LOOK_S = 0.03
"""The time between two looks at the events of a run that is on."""
_ALIVE_S = 15.0
"""After so long without an event a comment is sent, so that nobody between takes the connection for dead."""


async def follow(folder: Path, after: int, is_closing: Callable[[], bool]) -> AsyncIterator[str]:
    """Give what a stream sends of the events after the one of that number, until the last or the server's end."""
    number = 0
    async for line in _read(folder, is_closing):
        if not line:
            yield ": the run goes on\n\n"
            continue
        number += 1
        if number > after:
            yield f"id: {number}\ndata: {line}\n\n"


async def _read(folder: Path, is_closing: Callable[[], bool]) -> AsyncIterator[str]:
    """Give a run's events as JSON; an empty text now and then while there is none."""
    file, seconds = EventFile(folder), 0.0
    if file.exists:
        loop = asyncio.get_running_loop()
        quiet_since, goes_on = loop.time(), True
        while goes_on:
            goes_on = is_played(folder)  # looked up before what has been written is read
            for line in file.read():
                yield line
                quiet_since = loop.time()
            if file.ended or is_closing():
                return
            if loop.time() - quiet_since > _ALIVE_S:
                yield ""
                quiet_since = loop.time()
            await asyncio.sleep(_LOOK_S)
    else:
        for event in await run_in_threadpool(lambda: [*recall(folder)]):
            seconds = event["seconds"]
            yield json.dumps(event)
    summary = await run_in_threadpool(summarise, folder)
    yield json.dumps({"seconds": seconds, **describe_end(summary.state)})
