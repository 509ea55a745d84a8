"""The level of privacy that a scenario chooses: whether its game, its groups and its policy can keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stackelgrid.masks.roster import weigh
from stackelgrid.node.config import Rounds
from stackelgrid.registry import Game
from stackelgrid.rounds.settings import QUESTIONS_PER_SESSION, PrivacySettings
from stackelgrid.wire.masks import COMMITTEE
from stackelgrid.wire.messages import Body


def check_keys(privacy: PrivacySettings, game: Game) -> None:
    """Raise `ValueError` for a key that has no meaning in a game."""
    if privacy == PrivacySettings():
        return
    bodies = game.bodies("lower")
    if bodies.addressed:
        if privacy.sums == "committee":
            raise ValueError(
                "privacy.sums: committee; in this game each home is asked for itself, at a price or call of its own, "
                "and its answer decides what it is asked next, so that its aggregator must know it; set it to off"
            )
        if privacy.sensitivity == "none":
            raise ValueError(
                "privacy.sensitivity: none; in this game each home is asked for itself, and no question asks for a "
                "sensitivity, so that there is none to keep; leave it out"
            )
    elif privacy.sums == "committee" and game.masked is None:
        raise ValueError("privacy.sums: committee; answers of this game have no masked form; set it to off")
    question = bodies.signal
    if privacy.price_band is not None and question.price_range is Body.price_range:
        raise ValueError("privacy.price_band: homes of this game do not check their prices; leave it out")
    if privacy.questions_per_session != QUESTIONS_PER_SESSION and question.questions is Body.questions:
        raise ValueError("privacy.questions_per_session: homes of this game count no questions; leave it out")


def check_masks(privacy: PrivacySettings, rounds: Rounds, households: Mapping[str, Sequence[Sequence[Any]]]) -> None:
    """Raise `ValueError` where sums are to be masked, and groups are too small or a single home could be left out.

    `households` are the homes by aggregator and process.
    """
    if privacy.sums == "off":
        return
    for name, processes in households.items():
        homes = sum(map(len, processes))
        if homes < privacy.minimum_group:
            raise ValueError(
                f"aggregators: {name} has {homes} homes, a sum is of privacy.minimum_group {privacy.minimum_group} or "
                "more; lower aggregators or privacy.minimum_group, or set privacy.sums to off"
            )
        if len(processes) < COMMITTEE:
            raise ValueError(
                f"homes_per_process: {name} has {len(processes)} processes, of which {COMMITTEE} know the masks; "
                "lower it, or set privacy.sums to off"
            )
        if weigh(map(len, processes), privacy.minimum_group) < privacy.minimum_group:
            raise ValueError(
                f"homes_per_process: {name} has {homes} homes, but a process counts for a quarter of "
                f"privacy.minimum_group {privacy.minimum_group} at most; lower it, or set privacy.sums to off"
            )
    if rounds.missing == "exclude":
        raise ValueError(
            "rounds.missing: exclude, but under privacy.sums committee two sums must not differ by the presence of a "
            "home; set it to hold"
        )
    single = [offence for offence in rounds.quarantine_for if offence != "refused"]
    if rounds.quarantine_after and single:
        raise ValueError(
            f"rounds.quarantine_for: {', '.join(single)}, for which a single home would be left out; under "
            "privacy.sums committee two sums must not differ by its presence: leave refused alone in it"
        )
