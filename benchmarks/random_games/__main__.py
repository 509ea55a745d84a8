"""`python -m benchmarks.random_games`: play random games, and print how far below the best price the leader ends."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the testbed has it for its nodes; before numpy is imported

from benchmarks.random_games import reference
from benchmarks.random_games.draw import FAMILIES
from benchmarks.random_games.play import NOTABLE, Played, play, tabulate

GAMES = {"uncoupled": 300, "coupled": 100, "welfare": 300}
_WORST = 10


def main() -> int:
    """Play the games and print a table per family, and the worst games by seed."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.random_games", description=__doc__)
    arguments.add_argument("--family", choices=FAMILIES, help="default: all of them")
    arguments.add_argument("--games", type=int, metavar="N", help=f"how many; default: {GAMES}")
    arguments.add_argument("--from", type=int, default=0, dest="first", metavar="SEED", help="default: 0")
    arguments.add_argument("--store", action="store_true", help="store references that the leader beats")
    given = arguments.parse_args()
    logging.disable(logging.ERROR)  # a leader that finds no next price says so; here its end counts
    for family in [given.family] if given.family else FAMILIES:
        began = time.perf_counter()
        stored = reference.read(family)
        seeds = range(given.first, given.first + (given.games or GAMES[family]))
        games = [play(family, stored.get(seed) or reference.find(family, seed)) for seed in seeds]
        print(f"\n{family}, seeds {seeds.start} to {seeds.stop - 1}, {time.perf_counter() - began:.0f} s")
        print(tabulate(games), flush=True)
        print_worst(games)
        if given.store:
            store(family, stored, games)
    return 0


def print_worst(games: list[Played]) -> None:
    """Print the games that lose most, and each that ends below where the earlier leader did."""
    worst = sorted((game for game in games if game.loss > NOTABLE), key=lambda game: -game.loss)
    for game in worst[:_WORST]:
        print(f"  seed {game.seed} loses {game.loss:.1e} in {game.rounds} rounds")
    for game in games:
        if game.lost > NOTABLE:
            print(f"  seed {game.seed} ends {game.lost:.1e} below the earlier leader")


def store(family: str, stored: dict[int, reference.Reference], games: list[Played]) -> None:
    """Store the price of each game in which the leader earns more than the reference."""
    for game in games:
        if game.loss < 0 and game.violation == 0 and game.seed in stored:
            print(f"  seed {game.seed} beats the reference by {-game.loss:.1e}")
            best = stored[game.seed].best.model_copy(update={"utility": game.utility, "price": game.price})
            stored[game.seed] = stored[game.seed].model_copy(update={"best": best})
    reference.write(family, stored)


if __name__ == "__main__":
    sys.exit(main())
