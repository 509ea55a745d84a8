"""What a node writes into its history: what the round protocol gave it, at the end of a round or a session.

A node's recorders are wrapped, and its link is listened to; the node itself does not know. What is written twice, as
after a restart, counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.history.store import Change, HistoryFile, Run, upsert
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.home_status import HomeStatus
from stackelgrid.node.record import Recorder
from stackelgrid.rounds.ledger import Entry, Ledger
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.wire.arrays import PackedArray
from stackelgrid.wire.messages import AggregatorRoster, Message, Settlement
from stackelgrid.wire.roles import Role

Loads = Mapping[str, Sequence[float]]
"""The load of each member, or of each group where sums are masked, kW, a number per slot of a session."""

_TAKEN = "answered again questions messages bytes ms residual"
"""What a round took, by the keys of its account."""


def open_file(config: NodeConfig, role: Role) -> HistoryFile:
    """Open the history that a configuration names. Raises `ConfigError` where its folder is not there."""
    path = config.history_file
    assert path is not None
    if not path.parent.is_dir():
        raise ConfigError(f"history_file: {path.parent} is no folder; make it, or name a file in another")
    timezone = None if config.calendar is None else config.calendar.timezone
    return HistoryFile(
        path, Run(config.run, config.scenario or "", config.name, role, config.game, timezone), config.history_days
    )


class _History:
    """The part that every node writes: its sessions, and the slots that they plan."""

    def __init__(self, file: HistoryFile, sessions: Sequence[Session]) -> None:
        self._file, self._sessions = file, sessions

    def _write_session(self, settlement: Settlement[Any], loads: Loads | None, **more: int | None) -> None:
        """Write a session that was settled, and what it plans, over what earlier ones had planned for its slots.

        Where `loads` are not known, as when a coordinator has missed the round that was settled, those of before stay.
        """
        session, price = self._sessions[settlement.session - 1], getattr(settlement.body, "price", None)
        how = {"round": settlement.round, "settled": settlement.settled, "complete": settlement.complete}
        known = {key: value for key, value in more.items() if value is not None}
        changes = [self._describe(session, **how, **known)]
        if isinstance(price, list) and len(price) == session.slots:
            changes += self._plan(session, price, loads)
        self._file.write(*changes)

    def _describe(self, session: Session, **more: Any) -> Change:
        """Make the row of a session."""
        values = {
            "at": self._file.now(),
            "start": None if session.start is None else _to_seconds(session.start),
            "first": session.first + 1,
            "slots": session.slots,
            "binding": session.binding,
            "slot_hours": session.slot_hours,
            **more,
        }
        return upsert("sessions", "session", " ".join(values), [(session.number, *values.values())])

    def _plan(self, session: Session, price: Sequence[float], loads: Loads | None) -> Iterator[Change]:
        slots = range(session.first + 1, session.first + session.slots + 1)
        times = map(_to_seconds, session.times) if session.times else [None] * session.slots
        rows = list(zip(slots, [session.number] * session.slots, times, price, strict=True))
        # A plan of another session for these slots is out of date, with its loads.
        yield Change("DELETE FROM slots WHERE run = ? AND slot >= ? AND session < ?", [(slots[0], session.number)])
        yield Change("DELETE FROM members WHERE run = ? AND slot >= ? AND session < ?", [(slots[0], session.number)])
        yield upsert("slots", "slot", "session start price", rows)
        if loads is None:
            return
        totals = [sum(column) for column in zip(*loads.values(), strict=True)]
        yield Change(
            "UPDATE slots SET load_kw = ?3 WHERE run = ?1 AND slot = ?2", list(zip(slots, totals, strict=True))
        )
        yield Change("DELETE FROM members WHERE run = ? AND slot >= ?", [(slots[0],)])
        parts = [
            (slot, name, session.number, kw)
            for name, each in loads.items()
            for slot, kw in zip(slots, each, strict=True)
        ]
        yield upsert("members", "slot member", "session load_kw", parts)


class CoordinatorHistory(_History):
    """The history of a leader or an aggregator: what its members answered, and what it settled with them.

    Its `wrap_` methods are for the node's recorders, `hear` is for the link with its members.
    """

    def __init__(self, file: HistoryFile, sessions: Sequence[Session]) -> None:
        super().__init__(file, sessions)
        self._last_round: Entry | None = None
        self._heard: tuple[int, int, bool] | None = None
        self._roster: int | None = None

    def wrap_ledger(self, ledger: Ledger) -> Ledger:
        """Record the rounds that a ledger gets, and those of the open session that were in it before a restart."""
        return _HeardLedger(ledger, self._note_entry)

    def wrap_journal(self, journal: Recorder) -> Recorder:
        """Record what each round took."""
        return _in_turn(journal, self._note_account)

    def wrap_conclude(self, conclude: Recorder) -> Recorder:
        """Record how each session ended."""
        return _in_turn(conclude, self._note_conclusion)

    def hear(self, message: Message) -> None:
        """Record a settlement that is sent to the members, and note of which roster they are."""
        if isinstance(message, AggregatorRoster):
            self._roster = message.number
        if not isinstance(message, Settlement):
            return
        heard = (message.session, message.round, message.complete)
        if heard == self._heard:  # once more, or to another member
            return
        self._heard = heard
        answers, price = self._recall_answers(message.session)
        loads = _read_loads(answers) if price is not None and price == getattr(message.body, "price", None) else None
        homes = sum(body.get("homes", 0) for body in answers.values()) or None
        self._write_session(message, loads, homes=homes, roster=self._roster)

    def _recall_answers(self, session: int) -> tuple[Mapping[str, Any], Any]:
        """Give the answers of the last round of a session, and the price that was asked; nothing where it has none."""
        entry = self._last_round
        if entry is None or _find_session(entry) != session:
            return {}, None
        return entry["answers"], entry["question"].get("all", {}).get("price")

    def _note_entry(self, entry: Entry) -> None:
        if "roster" in entry:
            self._roster = entry["roster"]["number"]
        if "number" in entry:
            self._last_round = entry
        if "sums" in entry and self._last_round is not None:  # of groups; the round itself has masked answers
            self._last_round = {**self._last_round, "answers": entry["sums"]["answers"]}
        if "account" in entry:
            self._note_account(entry["account"])

    def _note_account(self, account: Mapping[str, Any]) -> None:
        session, key = account.get("session", 1), (account["round"], account.get("inner", 0))
        taken = (*key, session, self._file.now(), *map(account.get, _TAKEN.split()))
        missing = [
            (*key, name, action, session, account["why"].get(name, ""))
            for action in ("held", "excluded", "quarantined")
            for name in account[action]
        ]
        missing += [(*key, group, "not summed", session, why) for group, why in account.get("not_summed", {}).items()]
        self._file.write(
            upsert("rounds", "round inner", f"session at {_TAKEN}", [taken]),
            upsert("missing", "round inner member action", "session why", missing),
        )

    def _note_conclusion(self, conclusion: Mapping[str, Any]) -> None:
        """Note how the leader has ended a session, or why it has skipped it."""
        number, lost = conclusion.get("session", 1), conclusion.get("lost", [])
        missing = [
            (name, action, number) for action in ("lost", "unacknowledged") for name in conclusion.get(action, ())
        ]
        if reason := conclusion.get("skipped"):
            how = {"settled": False, "complete": False, "ended": f"skipped: {reason}"}
            self._file.write(self._describe(self._sessions[number - 1], **how))
            return
        words = "settled" if conclusion["settled"] else conclusion.get("stopped") or "the rounds ran out"
        if lost:
            words = f"lost {', '.join(lost)}"
        self._file.write(
            Change("UPDATE sessions SET ended = ?3 WHERE run = ?1 AND session = ?2", [(number, words)]),
            Change(
                "INSERT OR IGNORE INTO missing (run, round, inner, member, action, session, why) "
                "SELECT run, round, 0, ?2, ?3, session, '' FROM sessions WHERE run = ?1 AND session = ?4",
                missing,
            ),
        )


class HomeHistory(_History):
    """The history of a home: what it settled, what its meter counted, what drove its storage.

    `wrap_act` is for the node's recorder of schedules, `hear` for the link with its aggregator, `note_status` and
    `note_energy` for its devices, which may be in another thread.
    """

    def __init__(self, file: HistoryFile, sessions: Sequence[Session], homes: Sequence[HomeModel]) -> None:
        super().__init__(file, sessions)
        self._homes = homes
        self._settlement: Settlement[Any] | None = None
        self._driven: tuple[str, bool, bool, bool] | None = None

    def hear(self, message: Message) -> None:
        """Remember the settlement that the next schedules follow from."""
        if isinstance(message, Settlement):
            self._settlement = message

    def wrap_act(self, act: Recorder) -> Recorder:
        """Record what the homes will do."""
        return _in_turn(act, self._note_schedules)

    def _note_schedules(self, settled: Mapping[str, Any]) -> None:
        settlement = self._settlement
        if settlement is None or settled.get("session", 1) != settlement.session:
            return
        accounts = settled["homes"] if len(self._sessions) > 1 else settled
        self._write_session(settlement, _read_loads(accounts), homes=len(self._homes))
        self._write_feed_in_prices(self._sessions[settlement.session - 1])

    def _write_feed_in_prices(self, session: Session) -> None:
        """Write what each home gets for what it feeds in, where that is not the price of the slot."""
        rows = [
            (session.first + slot, home.id, price)
            for home in self._homes
            for slot, price in enumerate((home.list_feed_in_prices() or [])[session.window], 1)
        ]
        if rows:
            sql = "UPDATE members SET feed_in_price = ?4 WHERE run = ?1 AND slot = ?2 AND member = ?3"
            self._file.write(Change(sql, rows))

    def note_status(self, status: HomeStatus) -> None:
        """Record what drives the storage, when that has changed."""
        driven = (status.mode, status.override is not None, status.limit is not None, status.takes_part)
        if driven != self._driven:
            self._driven = driven
            self._file.write(
                Change("REPLACE INTO modes SELECT ?2, ?3, ?4, ?5, ?6 WHERE ?1", [(self._file.now(), *driven)])
            )

    def note_energy(self, start: datetime, minutes: int, kwh: float) -> None:
        """Record what the meter has counted in a slot."""
        self._file.write(Change("REPLACE INTO meter SELECT ?2, ?3, ?4 WHERE ?1", [(_to_seconds(start), minutes, kwh)]))


class _HeardLedger:
    """A ledger whose rounds somebody else hears of, too."""

    def __init__(self, ledger: Ledger, hear: Callable[[Entry], None]) -> None:
        self._ledger, self._hear = ledger, hear

    def __iter__(self) -> Iterator[Entry]:
        entries = list(self._ledger)
        open_session = max(map(_find_session, entries), default=1)
        for entry in entries:
            if _find_session(entry) == open_session or "roster" in entry:
                self._hear(entry)
        return iter(entries)

    def append(self, entry: Entry) -> None:
        """Store an entry."""
        self._ledger.append(entry)
        self._hear(entry)

    def clear(self) -> None:
        """Drop the entries so far."""
        self._ledger.clear()


def _in_turn(*recorders: Recorder) -> Recorder:
    """Make one recorder of several, called one after the other."""

    def record(content: Mapping[str, Any]) -> None:
        for each in recorders:
            each(content)

    return record


def _find_session(entry: Entry) -> int:
    """Find the session of an entry; the leader's rounds have it in their account."""
    return int(entry.get("session", entry.get("account", {}).get("session", 1)))


def _read_loads(members: Mapping[str, Any]) -> Loads | None:
    """Read the load of each member from its answer or account, of several homes their sum; None without any."""
    loads = {name: body.get("load_kw") for name, body in members.items()}
    summed = {
        name: PackedArray.model_validate(load).array().sum(axis=0).tolist() if isinstance(load, dict) else load
        for name, load in loads.items()
    }
    return None if None in summed.values() or not summed else summed


def _to_seconds(time: datetime) -> int:
    return int(time.timestamp())
