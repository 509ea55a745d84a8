"""A home's devices as one convex program, slot by slot: its variables, their bounds and costs, its equations.

    min sum_t cost(z_t)   with   lower <= z <= upper,   A z = b                                              [UO-J]

Variables z (T, n), in this order: the rates of the elastic appliances; the controls; what is bought and what is fed in
at the meter; the power through the inverter; and for each chain its level within the band that costs nothing, then how
far it is below or above that. Equations (T, R), in this order, with their multipliers, money per kWh or per unit of b:

    bought - fed in - sum of draw u = fixed load                             pi_t, the home's own price
    sum over what is behind the inverter of draw u - through it = 0          nu_t
    keep b_{t-1} + Δ sum of gain u - b_t = -drift_t, for each chain        lambda_t, the worth of what is stored

All costs are per hour: Δ is a factor of the whole objective, and stands in the chains alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stackelgrid.games.user_oriented.home.appliances import ElasticAppliances
from stackelgrid.games.user_oriented.home.flows import Chain, Control
from stackelgrid.wire.arrays import Array


class Coupling(NamedTuple):
    """A diag(theta) A': among the rows that a slot has for itself, `own` (T, F, F), between these and the chains'.

    `cross` (T, S, F), among the chains' rows of one slot, `chain` (T, S), and with those of the next, `beside`
    (T-1, S); both are diagonal, as no variable is in two chains.
    """

    own: Array
    cross: Array
    chain: Array
    beside: Array


class JointProgram:
    """The program of one home: `multiply` is A, `right` (T, R) is b. The price is no part of it.

    `bought`, `fed_in`, `through` and `levels` are the columns of these variables, `first_chain` is the row of the first
    chain. `strict` (T, n) marks the variables with a strictly convex cost, 1/2 weight (z - best)^2 or that of an
    appliance. `least_kw` and `most_kw` (T,) bound what the meter draws.
    """

    def __init__(
        self,
        elastic: ElasticAppliances,
        fixed: Array,
        controls: list[Control],
        chains: list[Chain],
        meter_limits: tuple[Array, Array],
        inverter_kw: float | None,
        slot_hours: float,
    ) -> None:
        self.elastic, self.fixed, self.chains, self.slots = elastic, fixed, chains, len(fixed)
        owned: list[tuple[Control, int | None]] = [(each, None) for each in controls]
        owned += [(each, row) for row, chain in enumerate(chains) for each in chain.controls]
        parts = [_split_in_parts(chain) for chain in chains]
        self.appliances = slice(0, len(elastic.lo))
        self.controls = slice(self.appliances.stop, self.appliances.stop + len(owned))
        self.bought, self.fed_in, self.through = (self.controls.stop + place for place in range(3))
        self.has_inverter = inverter_kw is not None
        self.first_chain = 2 if self.has_inverter else 1
        first_part = self.through + self.has_inverter
        self.size, self.rows = first_part + sum(map(len, parts)), self.first_chain + len(chains)

        self.lower, self.upper, self.weight, self.best = np.zeros((4, self.slots, self.size))
        self._own = np.zeros((self.first_chain, self.size))
        self._gain = np.zeros((self.slots, self.size))
        self._member = np.zeros((self.size, len(chains)))
        self.right = np.zeros((self.slots, self.rows))
        self.right[:, 0] = fixed
        self.keep = np.array([chain.keep for chain in chains])
        self.sign = np.zeros((self.size, len(chains)))
        self.levels: list[int] = []

        self.lower[:, self.appliances], self.upper[:, self.appliances] = elastic.lo.T, elastic.hi.T
        self._own[0, self.appliances] = -1.0
        for at, (control, chain_of_it) in enumerate(owned, self.controls.start):
            self._add_control(at, control, chain_of_it, slot_hours)
        self._own[0, self.bought], self._own[0, self.fed_in] = 1.0, -1.0
        if inverter_kw is not None:
            self._own[1, self.through] = -1.0
            self.lower[:, self.through], self.upper[:, self.through] = -inverter_kw, inverter_kw
        for row, (chain, of_chain) in enumerate(zip(chains, parts, strict=True)):
            self._add_chain(first_part, row, chain, of_chain)
            first_part += len(of_chain)
        self.strict = self.weight > 0
        self.strict[:, self.appliances] = True
        self._pairs = (self._own[:, None] * self._own[None]).reshape(-1, self.size).T.copy()
        self._crossing = (self._member.T[:, None] * self._own[None]).reshape(-1, self.size).T.copy()
        self._own_back, self._member_back = self._own.T.copy(), self._member.T.copy()
        self._sign_back, self._of_level = self.sign.T.copy(), self.sign**2
        # Where nothing limits the meter, its devices do.
        drawn = -self._own[0, : self.bought]
        ends = np.stack([drawn * self.lower[:, : self.bought], drawn * self.upper[:, : self.bought]])
        self.least_kw = np.maximum(meter_limits[0], np.minimum(fixed + ends.min(0).sum(1), 0) - 1)
        self.most_kw = np.minimum(meter_limits[1], np.maximum(fixed + ends.max(0).sum(1), 0) + 1)

    def _add_control(self, at: int, control: Control, chain: int | None, slot_hours: float) -> None:
        self.lower[:, at], self.upper[:, at] = control.lower, control.upper
        self.weight[:, at] = 2 * control.fast
        self.best[:, at] = 0.0 if control.best is None else control.best
        self._own[0, at] = -control.draw
        if control.behind_inverter and self.has_inverter:
            self._own[1, at] = control.draw
        if chain is not None and control.gain is not None:
            self._gain[:, at], self._member[at, chain] = slot_hours * control.gain, 1.0

    def _add_chain(self, at: int, row: int, chain: Chain, parts: list[_Part]) -> None:
        self.levels.append(at)
        self.right[:, self.first_chain + row] = -chain.drift
        self.right[0, self.first_chain + row] -= chain.keep * chain.initial
        for column, part in enumerate(parts, at):
            self.sign[column, row], self._member[column, row] = part.sign, 1.0
            self._gain[:, column] = -part.sign
            self.lower[:, column], self.upper[:, column] = part.lower, part.upper
            self.weight[:, column] = 2 * part.stiffness

    def multiply(self, z: Array) -> Array:
        """Give A z, (T, R)."""
        product = np.empty((self.slots, self.rows))
        product[:, : self.first_chain] = z @ self._own_back
        product[:, self.first_chain :] = (z * self._gain) @ self._member
        product[1:, self.first_chain :] += self.keep * (z[:-1] @ self.sign)
        return product

    def multiply_back(self, y: Array) -> Array:
        """Give A'y, (T, n)."""
        chains = y[:, self.first_chain :]
        product = y[:, : self.first_chain] @ self._own + (chains @ self._member_back) * self._gain
        product[:-1] += (self.keep * chains[1:]) @ self._sign_back
        return np.asarray(product)

    def couple(self, theta: Array) -> Coupling:
        """Give A diag(theta) A' for theta (T, n)."""
        first, chains = self.first_chain, len(self.chains)
        own = (theta @ self._pairs).reshape(self.slots, first, first)
        answers = theta * self._gain
        cross = (answers @ self._crossing).reshape(self.slots, chains, first)
        of_level = theta[:-1] @ self._of_level
        chain = (answers * self._gain) @ self._member
        chain[1:] += self.keep**2 * of_level
        return Coupling(own, cross, chain, -self.keep * of_level)

    def slope(self, z: Array) -> Array:
        """Give the derivative of the cost, (T, n)."""
        slope = self.weight * (z - self.best)
        if self.appliances.stop:
            slope[:, self.appliances] = -self.elastic.marginal(z[:, self.appliances].T).T
        return slope

    def curvature(self, z: Array) -> Array:
        """Give the second derivative of the cost, (T, n)."""
        if not self.appliances.stop:
            return self.weight
        curvature = self.weight.copy()
        curvature[:, self.appliances] = -self.elastic.curvature(z[:, self.appliances].T).T
        return curvature

    def worth(self, z: Array) -> float:
        """Give satisfaction less the cost of all else, money per hour times slots."""
        cost = 0.5 * float((self.weight * (z - self.best) ** 2).sum())
        return float(self.elastic.utility(z[:, self.appliances].T).sum()) - cost


class _Part(NamedTuple):
    """A part of a chain's quantity, which it adds to with `sign`; it costs `stiffness` times its square."""

    sign: float
    lower: Array
    upper: Array
    stiffness: float


def _split_in_parts(chain: Chain) -> list[_Part]:
    """Split a quantity into its level within the band that costs nothing, and what it is below and above that."""
    lower, upper, excess = chain.lower, chain.upper, []
    if chain.stiffness > 0 and chain.soft_lower is not None:
        least = np.clip(chain.soft_lower, lower, upper)
        excess.append(_Part(-1.0, np.zeros(len(least)), least - lower, chain.stiffness))
        lower = least
    if chain.stiffness > 0 and chain.soft_upper is not None:
        most = np.clip(chain.soft_upper, lower, upper)
        excess.append(_Part(1.0, np.zeros(len(most)), upper - most, chain.stiffness))
        upper = most
    return [_Part(1.0, lower, upper, 0.0), *excess]
