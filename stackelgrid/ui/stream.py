"""The events of a run as a stream of server-sent events, live or of a run that has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from stackelgrid.store.summary import summarise
from stackelgrid.testbed.run_lock import is_played
from stackelgrid.ui.events import EventFile, has_events, parse_event
from stackelgrid.ui.history import RecalledEvents
from stackelgrid.ui.words import describe_end

_LOOK_S = 0.05
"""The time between two looks at the events of a run that is on."""
_LOOK_AT_LOCK_S = 1.0
"""The time between two looks whether somebody still plays it."""
_ALIVE_S = 15.0
"""The time between two comments, so that nobody between takes a quiet connection for dead."""


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
    """Give a run's events as JSON; an empty text now and then while there is none, and when all so far are given."""
    events = EventFile(folder) if has_events(folder) else RecalledEvents(folder)
    loop = asyncio.get_running_loop()
    last, alive_at, look_at, goes_on = "", loop.time(), 0.0, True
    while goes_on:
        if loop.time() >= look_at:
            goes_on = is_played(folder)  # looked up before what has been written is read
            look_at = loop.time() + _LOOK_AT_LOCK_S
        lines = events.read() if last else iter(await run_in_threadpool(list, events.read()))  # the first are many
        for last in lines:
            yield last
        if events.ended or is_closing():
            return
        if goes_on and loop.time() >= alive_at:
            yield ""
            alive_at = loop.time() + _ALIVE_S
        await asyncio.sleep(_LOOK_S)
    ended = await run_in_threadpool(summarise, folder)
    seconds = parse_event(last).get("seconds", 0.0)
    if isinstance(events, RecalledEvents) and ended.state == "settled":
        yield json.dumps({"seconds": seconds, **events.settle()})
    yield json.dumps({"seconds": seconds, **describe_end(ended.state, ended.message)})
