"""What a consumer's answer tells its aggregator: the figures of docs/games/load_call.md."""

from __future__ import annotations

import pytest

import stackelgrid
from stackelgrid.games.load_call.home import Consumer, LoadCallHomes
from stackelgrid.games.load_call.messages import Call


@pytest.mark.parametrize("target", [800, 1500])
def test_one_mission_tells_the_aggregator_what_nine_of_ten_consumers_can_shift(target: float) -> None:
    run = stackelgrid.run("load_call", {"leader.target_kwh": target})
    leader, reward = run.scenario.leader, run.scenario.aggregator.reward
    saving = leader.peak_price - leader.off_peak_price + reward
    known, alphas = [], []
    for home in run.scenario.everyone:
        call, shift = run.outcome.calls_kwh[home.id], run.outcome.shifted_kwh[home.id]
        if shift < call or call == home.baseline_kwh:
            known.append(home.id)
            assert shift == pytest.approx(home.solve_yhat(saving), rel=1e-15)
        else:
            assert shift == call < home.solve_yhat(saving)
        if shift < call:  # with beta known besides, alpha follows
            alphas.append((saving - home.beta) / (2 * shift) / home.alpha)
    assert len(known) == 9
    assert alphas == pytest.approx([1.0] * 6, rel=1e-14)


def test_two_rewards_tell_alpha_and_beta_and_a_third_the_most_that_it_can_shift() -> None:
    home = Consumer(id="shop", baseline_kwh=100, alpha=0.02, beta=0.5, most_kwh=60)

    def ask(reward: float) -> float:
        call = Call(call_kwh=[100.0], peak_price=5.0, off_peak_price=3.0, reward=reward)
        return float(LoadCallHomes([home]).answer(call).to_array()[0])

    low, high = ask(0.5), ask(0.7)
    alpha = 0.2 / (2 * (high - low))
    assert alpha == pytest.approx(home.alpha, rel=1e-13)
    assert 2.5 - 2 * alpha * low == pytest.approx(home.beta, rel=1e-12)
    assert ask(1e6) == home.most_kwh
