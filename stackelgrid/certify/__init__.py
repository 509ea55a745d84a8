"""Centralised references and equilibrium certificates, computed on a desk with everybody's secrets.

Importing this package is cheap; cvxpy and SciPy are imported with the first certificate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emc_node.home import Home
    from leader_node.config import UtilitySettings


class CertificateError(RuntimeError):
    """No certificate could be issued; the message says which reference failed or what the outcome lacks."""


def certify(
    homes: Sequence[Home],
    settings: UtilitySettings,
    slots: int,
    outcome: Mapping[str, Any],
    *,
    seed: int,
    samples: int = 200,
) -> dict[str, Any]:
    """The certificate of a user-oriented pricing game's `outcome` (as in result.json), ready for JSON.

    - `method`: what was done, in words.
    - `gap`, relative: of a `welfare` run, how far its system utility is below the centralised optimum (below zero only
      by the reference's tolerance, or where limits are violated); of a `stackelberg` run, `leader_regret`.
    - `max_regret`: the largest relative gain that any player has from deviating alone, of the two that follow.
    - `max_home_regret`: of the homes, relative to max(1, |utility|), utility being satisfaction less wear less bill.
    - `leader_regret`: the leader's from the best price found, relative to max(1, |utility|); None for `welfare`.
    - `price_residual`: of a `welfare` run, the largest distance of the price from marginal cost plus capacity
      multipliers, money per kWh; None for `stackelberg`.
    - `overclaim`: the largest relative excess of a utility claimed by a home over the one worked out anew, or, of homes
      with several storages, whose schedules their reports do not tell, over the optimum.
    - `bill_residual`: the largest relative error of a bill.
    - `load_residual`: the largest difference of a home's load from its best answer to the price, kW.
    - `balance_residual`: the largest difference of the leader's load from the sum of the homes', kW.
    - `violation`: the worst violation of a limit of a home or of the capacity, kW or kWh.
    - `feasible`: whether that is within 1e-6 of the peak, and a `stackelberg` price within its bounds.
    - `system_utility`: of the run, worked out anew, money.
    - `welfare_system_utility`, `welfare_price`: the centralised optimum, money, and the price that brings it about;
      like all that is measured by it None where no schedule of the homes keeps the capacity.
    - `price_distance`: `rms`, money per kWh, and `relative` distance of the run's price from the welfare price.
    - `solver_status`: of the references `homes` and `centralised`, Clarabel's status, iterations, residuals and duality
      gap, which bounds the error of `max_home_regret` and of `gap`.
    - `prices_tried`: by the search for a better price; 0 for `welfare`.

    `seed` and `samples`, how many prices to try at random, are the search's. `homes` are those that settled, all of
    them and no others. Raises `CertificateError`.
    """
    from stackelgrid.certify.user_oriented import certificate

    return certificate(homes, settings, slots, outcome, seed=seed, samples=samples)
