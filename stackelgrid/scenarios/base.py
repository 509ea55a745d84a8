"""Base models of a scenario: one game, its leader, its aggregators, its homes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stackelgrid.calendar import MOST_SLOTS, MOST_SLOTS_OF_RUN, Calendar, Session, list_sessions
from stackelgrid.certify import require_solvers
from stackelgrid.gates import Gates
from stackelgrid.model import LARGEST, Positive, StrictModel
from stackelgrid.node.config import Rounds
from stackelgrid.registry import find, find_homes
from stackelgrid.rounds.settings import AggregatorSettings, HomeModel, LeaderSettings, PrivacySettings
from stackelgrid.scenarios.doubts import doubt_homes
from stackelgrid.scenarios.privacy import check_keys, check_masks
from stackelgrid.scenarios.topology import LEADER, NODE_NAME, RunTopology

if TYPE_CHECKING:
    from stackelgrid.run_record import Outcome, RunRecord

_MOST_REHEARSED = 1000
"""Homes times sessions that are rehearsed when a run is read, of which a home may take some milliseconds."""


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]:g} comes first, then the upper {bounds[1]:g}; swap them")
    return bounds


Between = Annotated[tuple[Positive, Positive], AfterValidator(_check_order)]
"""Bounds of a uniform draw, low and high."""


class _Dated(StrictModel):
    """The part of a scenario that says when it is."""

    calendar: Calendar


class Scenario(StrictModel):
    """Base of a game's scenario: the keys that all games have, and the methods that a game may or must override.

    With `gates` the run is a grid: each session of the calendar opens by the clock.
    `aggregators` share the homes in turn; `homes_per_process` homes share a process and its connection, and answer in
    one message. `inner_rounds` is how many rounds an aggregator may play with its homes before it answers its leader.
    `privacy` says what homes disclose, and to whom.
    `calibrated` names keys whose values were fitted, each with the figures that it was fitted to. A home with a power
    above `home_kw`, or a load outside `home_kwh_a_day`, is asked about.
    """

    model_config = ConfigDict(ignored_types=(cached_property,))

    inner_rounds: ClassVar[int] = 1
    home_kw: ClassVar[float] = 1000.0
    home_kwh_a_day: ClassVar[tuple[float, float]] = (0.0, 24_000.0)

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    game: str
    title: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    money: str = "cents"
    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS_OF_RUN)] = 24
    calendar: Calendar | None = None
    gates: Annotated[Gates | None, Field(exclude_if=lambda gates: gates is None)] = None
    leader: LeaderSettings
    aggregators: Annotated[int, Field(ge=1, le=10_000)] = 1
    homes_per_process: Annotated[int, Field(ge=1, le=100_000)] = 1
    rounds: Rounds = Rounds()
    privacy: Annotated[PrivacySettings, Field(exclude_if=lambda privacy: privacy == PrivacySettings())] = (
        PrivacySettings()
    )
    calibrated: dict[str, str] = {}

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Complete the content of a file in `folder` before it is checked: the slots of a calendar, in each home too.

        Raises `pydantic.ValidationError` for a calendar that is wrong.
        """
        if raw.get("calendar") is None:
            return
        calendar = _Dated.model_validate({"calendar": raw["calendar"]}).calendar
        if raw.setdefault("slots", calendar.slots) != calendar.slots:
            raise ValueError(f"slots: {raw['slots']}, the calendar has {calendar.slots}; leave slots out")
        homes = raw.get("homes")
        for home in homes if isinstance(homes, list) else []:
            if isinstance(home, dict):
                home.setdefault("slot_hours", calendar.slot_hours)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions of the run, one without a calendar."""
        return list_sessions(self.calendar, self.slots)

    @property
    def slot_hours(self) -> float:
        """The length Δ of a slot, hours."""
        return 1.0 if self.calendar is None else self.calendar.slot_hours

    @property
    def run(self) -> Session:
        """All slots of the run, as if one session looked at them."""
        first = self.sessions[0]
        return Session(self.slots, first.slot_hours, start=first.start)

    @property
    def session(self) -> Session:
        """The session of a scenario that has no other, like each of `in_session`."""
        (session,) = self.sessions
        return session

    @property
    def has_forecasts(self) -> bool:
        """True when somebody plans by a forecast of what the lists per slot hold."""
        return False

    def with_foresight(self) -> Self:
        """Give the scenario in which everybody knows what comes."""
        return self

    def in_session(self, session: Session, states: Mapping[str, Mapping[str, Any]] | None = None) -> Self:
        """Give a session of the run, as it is foreseen at its beginning, as a scenario of its own.

        `states` are those left to leader and homes, by name. A home whose state does not allow what the session asks of
        it has no part in it.
        """
        if len(self.sessions) == 1 and not states and not self.has_forecasts:
            return self
        assert self.calendar is not None
        states = states or {}
        alone = self.change(
            gates=None,
            slots=session.slots,
            calendar=self.calendar.at(session),
            leader=self.leader_settings().foresee(session).in_session(session, states.get(LEADER)),
        )
        homes = []
        for home in self.everyone:
            with suppress(ValueError):  # as its EMC, which has logged it
                homes.append(home.foresee(session).in_session(session, states.get(home.id)))
        return alone.with_homes(homes)

    def with_homes(self, homes: list[Any]) -> Self:
        """Give the same scenario with these homes listed in it."""
        raise NotImplementedError

    @cached_property
    def everyone(self) -> list[Any]:
        """All homes of the scenario, drawn or listed. Raises `ValueError`."""
        raise NotImplementedError

    def verify(self) -> None:
        """Check the parts of the scenario against each other. Raises `ValueError` with key, value and mend."""
        if self.gates is not None:
            self.gates.check(self.calendar)
        if self.calendar is None and self.slots > MOST_SLOTS:
            raise ValueError(f"slots: {self.slots}, at most {MOST_SLOTS} can be played; lower it")
        try:
            self.leader.check_slots(self.slots)
        except ValueError as error:
            raise ValueError(f"leader.{error}") from None
        seen: set[str] = set()
        for number, home in enumerate(self.everyone):
            try:
                home.check_slots(self.slots)
            except ValueError as error:
                raise ValueError(f"homes.{number}.{error}") from None
            if home.slot_hours != self.slot_hours:
                raise ValueError(
                    f"homes.{number}.slot_hours: {home.slot_hours:g}, the slots of the run have {self.slot_hours:g}; "
                    "leave it out"
                )
            if home.id in seen:
                raise ValueError(f"homes.{number}.id: {home.id!r} is there twice; give each home its own id")
            seen.add(home.id)
            if NODE_NAME.fullmatch(home.id):
                raise ValueError(f"homes.{number}.id: {home.id!r} is a name of other nodes; give the home another id")
        if len(seen) < self.aggregators:
            raise ValueError(f"aggregators: {self.aggregators} for {len(seen)} homes; there must be a home for each")
        self._require_aggregators()
        self.check_privacy()
        total = sum(self.connection_kw(home) or 0 for home in self.everyone)
        if total > LARGEST:
            raise ValueError(
                f"homes: their connections carry {total:g} kW together, more than {LARGEST:g}; correct units or numbers"
            )

    def _require_aggregators(self) -> None:
        """Raise `ValueError` where a home names an aggregator that is not there, or one is left without homes."""
        names = [f"a{number + 1}" for number in range(self.aggregators)]
        for number, home in enumerate(self.everyone):
            if home.aggregator not in (None, *names):
                raise ValueError(
                    f"homes.{number}.aggregator: {home.aggregator!r} is none of {names[0]} to {names[-1]}; "
                    "name one, or raise aggregators"
                )
        if empty := [name for name, mine in self.households().items() if not mine]:
            raise ValueError(f"aggregators: no home is left for {empty[0]}; let one name it, or lower aggregators")

    def check_privacy(self) -> None:
        """Raise `ValueError` where the scenario cannot keep the level of privacy that it chooses."""
        check_keys(self.privacy, find(self.game))
        check_masks(self.privacy, self.rounds, self.households())

    def keep_sensitivities(self) -> tuple[Self, str]:
        """Give the scenario in which homes keep their sensitivity to the price, and say in a few words what it is like.

        Without a question that asks for a sensitivity it stays as it is.
        """
        return self, "aggregators read the answer of each home"

    def find_doubts(self) -> list[str]:
        """List what can be played and is probably meant otherwise, each with its key."""
        return doubt_homes(self.everyone, self.home_kw, self.home_kwh_a_day)

    def rehearse(self) -> None:
        """Build what the nodes will build in each session, of many in some from the first to the last.

        Homes that go into a session as the one before has left them are built in the first only. Raises `ValueError`
        for what a node would refuse.
        """
        step = ceil(len(self.sessions) * len(self.everyone) / _MOST_REHEARSED)
        for session in (*self.sessions[:-1:step], self.sessions[-1]):
            try:
                self._rehearse_session(session)
            except ValueError as error:
                if session.first == 0:
                    raise
                of_run = f"session {session.number}, which begins in slot {session.first + 1} of the run"
                raise ValueError(f"{error} ({of_run})") from None

    def _rehearse_session(self, session: Session) -> None:
        self.leader_settings().foresee(session).in_session(session).strategy(session)
        make_homes = find_homes(self.game, self.home_algorithm())
        for name, members in self.topology.members.items():
            settings = self.aggregator_settings(name, {process: list(homes) for process, homes in members.items()})
            settings.in_session(session).strategy(session, {process: len(homes) for process, homes in members.items()})
            for homes in members.values():
                known = [home for home in homes if session.first == 0 or not home.has_state]
                if known:
                    make_homes([home.foresee(session).in_session(session) for home in known])

    def households(self) -> dict[str, list[list[Any]]]:
        """Group the homes by aggregator and process: those that name an aggregator there, the others in turn."""
        members: dict[str, list[Any]] = {f"a{number + 1}": [] for number in range(self.aggregators)}
        in_turn = cycle(members)
        for home in self.everyone:
            members[home.aggregator or next(in_turn)].append(home)
        size = self.homes_per_process
        return {
            name: [mine[start : start + size] for start in range(0, len(mine), size)] for name, mine in members.items()
        }

    @cached_property
    def topology(self) -> RunTopology:
        """The nodes of a run of this scenario."""
        return RunTopology.of(self.households(), self.homes_per_process)

    def connection_kw(self, home: Any) -> float | None:
        """Give the limit of a home's connection, kW, by which its aggregator checks its answers; None when unknown."""
        return None

    def leader_settings(self) -> LeaderSettings:
        """Make the settings of the leader's process: those of the scenario, and what it must know besides."""
        return self.leader

    def home_algorithm(self) -> str | None:
        """Name the algorithm by whose home's half homes answer; None where they answer as in the game."""
        return None

    def privacy_settings(self) -> PrivacySettings:
        """Give what homes disclose."""
        return self.privacy

    def aggregator_settings(self, name: str, members: dict[str, list[Any]]) -> AggregatorSettings:
        """Make the settings of the aggregator `name`; `members` are the homes behind each of its EMC processes."""
        raise NotImplementedError

    def copy_data_to(self, folder: Path) -> Self:
        """Copy the data files that the scenario names into `folder`; returns a scenario that names the copies."""
        return self

    def outcome(self, run_record: RunRecord) -> Any:
        """Build `outcome` of result.json from a run in which at least one round was finished."""
        outcome = find(self.game).load("outcome").of(self, run_record)
        if (times := self.session.times) is None:
            return outcome
        dated = {"times": [time.isoformat() for time in times], "slot_hours": self.slot_hours}
        return outcome.model_copy(update=dated)

    def meter(self, session: Session, states: Mapping[str, Mapping[str, Any]], outcome: Any) -> Any:
        """Add to the outcome of a session, built by `in_session`, what its meters count, where that was foreseen."""
        return outcome

    @property
    def certified_at_any_size(self) -> bool:
        """True when a certificate takes seconds however many homes there are."""
        return False

    def certificate(self, outcome: Outcome, samples: int) -> dict[str, Any]:
        """Find how far a complete outcome is from an equilibrium; see `stackelgrid.certify`.

        Raises `CertificateError`.
        """
        require_solvers()
        certificate: dict[str, Any] = find(self.game).load("certificate")(self, outcome, samples)
        return certificate


Population = TypeVar("Population", bound=BaseModel)
Home = TypeVar("Home", bound=HomeModel)


class PopulatedScenario(Scenario, Generic[Population, Home]):
    """Base of a scenario whose homes are either drawn from a `population` or listed as `homes`.

    With `horizons`, homes have a key `horizon`: the number of slots, which a listed home may leave out.
    """

    horizons: ClassVar[bool] = False

    population: Population | None = None
    homes: list[Home] | None = None

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Give each listed home the scenario's slots as its horizon."""
        super().prepare(raw, folder)
        homes = raw.get("homes")
        for home in homes if cls.horizons and isinstance(homes, list) else []:
            if isinstance(home, dict):
                home.setdefault("horizon", raw.get("slots", cls.model_fields["slots"].default))

    @model_validator(mode="after")
    def _check_homes(self) -> Self:
        if (self.population is None) == (self.homes is None):
            raise ValueError("give either population or homes, not both and not neither")
        return self

    def with_homes(self, homes: list[Any]) -> Self:
        """Give the same scenario with these homes listed in it."""
        return self.change(population=None, homes=homes)

    def draw(self, population: Population) -> list[Home]:
        """Draw the homes of a population."""
        raise NotImplementedError

    @cached_property
    def everyone(self) -> list[Home]:
        """All homes of the scenario, drawn or listed."""
        if self.homes is not None:
            return list(self.homes)
        assert self.population is not None
        homes = self.draw(self.population)
        if self.calendar is None:
            return homes
        return [home.model_copy(update={"slot_hours": self.calendar.slot_hours}) for home in homes]
