"""The utility of the storage market: it dispatches generators, sets the price and leads the play of `phases`.

The price of a round is that of the dispatch [SM-1] for the net demand of the last answers [SM-2]. MW, slots of Δ hours,
dollars per MWh.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.errors import SolverError
from stackelgrid.forecast import Forecast, foresee
from stackelgrid.games.storage_market.dispatch import EconomicDispatch, GeneratingUnit
from stackelgrid.games.storage_market.messages import Clearing, DraAnswer, MarketSignal, PriceCurve, Turn
from stackelgrid.games.storage_market.phases import MOST_GROUPS, MarketPlay, MarketState, NextRound
from stackelgrid.games.storage_market.price_line import PriceLine, find_price_line
from stackelgrid.model import Finite, NonNegative, NumberPerSlot, Positive, StrictModel
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.arrays import LARGEST, Array, PackedArray
from stackelgrid.wire.names import Name

_LOG = logging.getLogger("leader_node")
_ROUNDING = 1e-9
_KW_PER_MW = 1000.0


class GeneratorSettings(StrictModel):
    """A generator: `quadratic` P^2 + `linear` P + `constant` dollars an hour at P MW.

    It runs between 0 and `max_mw` and changes by `ramp_mw` an hour at most, at first from `output_mw`, from any output
    where that is None.
    """

    id: Name
    quadratic: Positive
    linear: NonNegative
    constant: NonNegative = 0.0
    max_mw: Positive
    ramp_mw: Positive
    output_mw: NonNegative | None = None

    def cost_of(self, output: Array) -> Array:
        """Compute what outputs in MW cost, dollars an hour."""
        return np.asarray(self.quadratic * output**2 + self.linear * output + self.constant)

    def unit(self) -> GeneratingUnit:
        """Give the generator for the dispatch."""
        return GeneratingUnit(**self.model_dump())


class UtilitySettings(LeaderSettings):
    """The settings of the utility.

    The demand expected before anybody reschedules is `peak_mw` times `shape`, one number per slot, the largest of a run
    1. `lost_load_price` is that of energy not served, $/MWh, `price_cap` the most paid for a MWh that a DRA sells, no
    cap where it is None. `theta`, the share of demand that DRAs may sell, `groups` and `inertia` of the turns of runs
    are those to begin with; theta stays within `max_theta`. Bids have come to rest when they change by less than
    `tolerance` of all DRAs' power. At the beginning of a session it plans with what `forecast` makes of the demand
    expected (in a scenario `forecast.load`, a list in kW); for what is drawn beyond what was settled it pays
    `imbalance_price`, $/MWh, the price of a dispatch for what came where none is given.
    """

    generators: Annotated[list[GeneratorSettings], Field(min_length=1, max_length=100)]
    peak_mw: Positive
    shape: Annotated[NumberPerSlot, Field(min_length=1)]
    lost_load_price: Positive = 1000.0
    price_cap: Positive | None = None
    theta: Annotated[float, Field(gt=0, le=1)] = 0.04
    max_theta: Annotated[float, Field(gt=0, le=1)] = 1.0
    groups: Annotated[int, Field(ge=1, le=MOST_GROUPS)] = 4
    inertia: Annotated[float, Field(gt=0, le=1)] = 0.002
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-7
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 400
    forecast: Annotated[Forecast | None, Field(exclude_if=lambda rule: rule is None)] = None
    imbalance_price: Annotated[Finite | None, Field(exclude_if=lambda price: price is None)] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [generator.id for generator in self.generators]
        for number, name in enumerate(ids):
            if name in ids[:number]:
                raise ValueError(f"generators.{number}.id: {name!r} is there twice; give each generator its own id")
        dearest = max(unit.linear + 2 * unit.quadratic * unit.max_mw for unit in self.generators)
        if self.lost_load_price <= dearest:
            raise ValueError(
                f"lost_load_price {self.lost_load_price:g} is not above {dearest:g}, what the dearest MWh generated "
                "costs; raise it, or load would be dropped to save money"
            )
        if max(self.shape) > 1 + _ROUNDING:
            self.check_peak()
        return self

    @property
    def expected(self) -> Array:
        """The demand before anybody reschedules, (T,) MW."""
        return self.peak_mw * np.array(self.shape)

    def economic_dispatch(self, slot_hours: float) -> EconomicDispatch:
        """Set up the dispatch of the generators [SM-1]."""
        units = [unit.unit() for unit in self.generators]
        return EconomicDispatch(units, self.lost_load_price, len(self.shape), slot_hours)

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` where the shape has another length, or generators are too small: in which slot."""
        for key, value in (("shape", self.shape), ("forecast", self.forecast)):
            if isinstance(value, list) and len(value) != slots:
                raise ValueError(f"{key} has {len(value)} numbers, the horizon has {slots} slots; give one per slot")
        capacity = sum(unit.max_mw for unit in self.generators)
        peak, slot = float(self.expected.max()), int(self.expected.argmax()) + 1
        if peak > capacity:
            raise ValueError(
                f"peak_mw: demand is highest in slot {slot}, {peak:g} MW, {peak - capacity:g} MW above what generators "
                "have; lower it or add max_mw"
            )

    def check_peak(self) -> None:
        """Raise `ValueError` where the largest number of the shape, that of a run, is not 1."""
        if abs(max(self.shape) - 1) > _ROUNDING:
            raise ValueError(f"shape has the maximum {max(self.shape):g}; make it 1, shape is in parts of peak_mw")

    def check_ramps(self, session: Session) -> None:
        """Raise `ValueError` where no dispatch serves the demand of a session: in which slot of the run."""
        dispatch = self.economic_dispatch(session.slot_hours).solve(self.expected)
        for kind, missing in (("short", dispatch.short), ("left over", dispatch.spilt)):
            if missing.max() > 1e-6:
                slot = session.first + int(missing.argmax()) + 1
                raise ValueError(f"generators: in slot {slot} ramps leave {missing.max():g} MW {kind}; raise ramp_mw")

    def foresee(self, session: Session) -> Self:
        """Give the settings with the demand that is foreseen for a session, never above the peak of the run."""
        if self.forecast is None:
            return self
        peak_kw = _KW_PER_MW * self.peak_mw
        rule = [kw / peak_kw for kw in self.forecast] if isinstance(self.forecast, list) else self.forecast
        shape, peak = foresee(rule, self.shape, session), max(self.shape)
        return self.model_copy(update={"shape": np.minimum(shape, peak).tolist(), "forecast": None})

    def in_session(self, session: Session, state: Mapping[str, Any] | None = None) -> Self:
        """Give the settings of one session, its generators at the outputs that the one before has left."""
        cut = super().in_session(session, state)
        if not state:
            return cut
        generators = [unit.model_copy(update={"output_mw": state["output_mw"][unit.id]}) for unit in cut.generators]
        return cut.model_copy(update={"generators": generators})

    def advance(self, session: Session, account: Mapping[str, Any]) -> dict[str, Any]:
        """Give the output of each generator in the last binding slot, MW."""
        return {"output_mw": {name: output[session.binding - 1] for name, output in account["dispatch_mw"].items()}}

    def strategy(self, session: Session) -> StorageMarketLeader:
        """Create the leader's part of the game."""
        return StorageMarketLeader(self, session.slot_hours)


class StorageMarketLeader:
    """The leader's strategy: it turns the DRAs' answers into the state of the market, and the play into signals."""

    def __init__(self, settings: UtilitySettings, slot_hours: float) -> None:
        self._dispatch, self._expected = settings.economic_dispatch(slot_hours), settings.expected
        self._price_cap = settings.price_cap
        self._last = self._sum_up({}, ())
        self._play = MarketPlay(
            self._dispatch,
            self._last.dispatch.price,
            theta=settings.theta,
            max_theta=settings.max_theta,
            price_cap=settings.price_cap,
            groups=settings.groups,
            inertia=settings.inertia,
            tolerance=settings.tolerance,
        )

    def open(self) -> Decision[MarketSignal, Clearing]:
        """Give the price of the demand expected, at which nobody moves yet."""
        return Decision(self._signal(self._last), Clearing(price=_limit_price(self._last.dispatch.price)))

    def decide(
        self, signal: MarketSignal, answers: Mapping[str, DraAnswer], held: Collection[str]
    ) -> Decision[MarketSignal, Clearing]:
        """Dispatch for the answers and go on with the play."""
        purpose = self._play.next_round
        try:
            state = self._sum_up(answers, held)
        except SolverError as error:
            # No homes give such answers: ask again, they may be right before the rounds run out.
            _LOG.error("no dispatch for these answers", extra={"data": {"error": str(error)}})
            account = self._account(purpose, self._last)
            return Decision(_stand_still(signal), Clearing(price=signal.price), account=account)
        account = self._account(purpose, state)
        residual = max(state.bid_change, state.regret) if purpose.bid else state.regret
        self._play.advance(state)
        self._last = state
        settlement = Clearing(price=_limit_price(state.dispatch.price))
        return Decision(self._signal(state), settlement, self._play.next_round.settle, residual, account)

    def _signal(self, state: MarketState) -> MarketSignal:
        """Ask for the next round of the play, at the price of the demand that homes move to."""
        play, purpose = self._play, self._play.next_round
        moved = purpose.step * state.offer + purpose.starts * state.starts
        dispatch = state.dispatch
        if moved.any():
            try:
                dispatch = self._dispatch.solve(state.demand - state.net_sold + moved)
            except SolverError as error:
                _LOG.error("no dispatch for these offers", extra={"data": {"error": str(error)}})
        line = find_price_line(self._dispatch, dispatch, 2 * state.power) if purpose.bid else None
        return MarketSignal(
            price=_limit_price(dispatch.price),
            curve=None if line is None else _announce(line),
            sales_cap=play.cap.tolist(),
            price_cap=self._price_cap,
            hold=purpose.hold,
            step=play.step,
            turn=Turn(
                step=purpose.step,
                starts=purpose.starts,
                weight=play.weight,
                groups=play.groups,
                turn=purpose.turn,
                inertia=play.inertia,
            ),
        )

    def _sum_up(self, answers: Mapping[str, DraAnswer], held: Collection[str]) -> MarketState:
        """Add up a round's answers [SM-2] and dispatch. Raise `SolverError` when there is no dispatch for them.

        DRAs that are `held` keep their load and bid; they neither move nor want to.
        """
        zero = np.zeros(len(self._expected))
        fresh = [answer for name, answer in answers.items() if name not in held]
        demand = self._expected + sum((np.array(a.load) - np.array(a.usual) for a in answers.values()), zero)
        demand = demand - sum((np.array(a.moved) for a in answers.values() if a.moved is not None), zero)
        charge = {name: np.array(answer.charge) for name, answer in answers.items()}
        sold = {name: np.array(answer.sold) for name, answer in answers.items()}
        rated = {name: answer.rated_power for name, answer in answers.items()}
        power = sum(rated.values())
        largest_change = max((answer.bid_change for answer in fresh), default=0.0)
        return MarketState(
            demand=demand,
            offer=sum((np.array(a.offer) - np.array(a.load) for a in fresh), zero),
            starts=sum((np.array(a.starts) - np.array(a.load) for a in fresh if a.starts != a.load), zero),
            charge=charge,
            sold=sold,
            supply_slope={name: np.array(answer.supply_slope) for name, answer in answers.items()},
            dispatch=self._dispatch.solve(demand + sum(charge.values(), zero) - sum(sold.values(), zero)),
            wanted=sum(answer.wanted for answer in fresh),
            regret=max((answer.regret for answer in fresh), default=0.0),
            bid_change=largest_change / power if power > 0 else 0.0,
            rated_power=rated,
            homes=sum(answer.homes for answer in answers.values()),
        )

    def _account(self, purpose: NextRound, state: MarketState) -> dict[str, Any]:
        """Give the round in numbers for the journal: MW, MWh, dollars."""
        dispatch, play = state.dispatch, self._play
        slope = np.diagonal(find_price_line(self._dispatch, dispatch, 0.0).slope)
        return {
            "phase": purpose.phase,
            "price": dispatch.price.tolist(),
            "supply_cost": dispatch.cost,
            "total_cost": state.total_cost(self._price_cap),
            "demand_mw": state.demand.tolist(),
            "net_demand_mw": (state.demand - state.net_sold).tolist(),
            "dispatch_mw": {
                unit.id: output.tolist()
                for unit, output in zip(self._dispatch.generators, dispatch.generation, strict=True)
            },
            "short_mw": dispatch.short.tolist(),
            "spilt_mw": dispatch.spilt.tolist(),
            "hourly_cost": dispatch.hourly_cost.tolist(),
            "charge_mw": {name: charge.tolist() for name, charge in state.charge.items()},
            "sold_mw": {name: sold.tolist() for name, sold in state.sold.items()},
            "supply_slope": {name: slope.tolist() for name, slope in state.supply_slope.items()},
            "slope": slope.tolist(),
            "sales_cap": play.cap.tolist(),
            "theta": play.theta,
            "groups": play.groups,
            "inertia": play.inertia,
            "step": purpose.step,
            "weight": play.weight,
            "wanted_mwh": state.wanted,
            "regret": state.regret,
            "bid_change": state.bid_change,
            "homes": state.homes,
        }


def _announce(line: PriceLine) -> PriceCurve:
    """Write the price near the present bids [SM-3] for the DRAs, who sell what the net demand falls by."""
    slope = PackedArray.of(np.clip(line.slope, -LARGEST, LARGEST))
    if not len(line.room):
        return PriceCurve(slope=slope)
    kinks, room, jump = -line.kinks, np.clip(line.room, 0, LARGEST), np.clip(line.jump, -LARGEST, LARGEST)
    return PriceCurve(slope=slope, kinks=PackedArray.of(kinks), room=PackedArray.of(room), jump=PackedArray.of(jump))


def _stand_still(signal: MarketSignal) -> MarketSignal:
    """Ask the same again, without another move of the homes."""
    return signal.model_copy(update={"turn": signal.turn.model_copy(update={"step": 0.0, "starts": False})})


def _limit_price(price: Array) -> list[float]:
    """Limit a price to what a message may hold; absurd loads may drive it beyond."""
    return [float(each) for each in np.clip(price, -LARGEST, LARGEST)]
