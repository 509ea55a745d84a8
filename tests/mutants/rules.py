"""The rules of private sums, each taken away on purpose: `python -m mutants.rules` says which test finds it.

Small mistakes are drawn (`mutants`); a rule that is missing altogether is not drawn often enough.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MASKS = "stackelgrid/masks"
_TESTS = ("tests/unit/test_masks.py", "tests/unit/test_attacks.py")


@dataclass(frozen=True)
class Rule:
    """A rule by its name, and the change of a file of `stackelgrid/masks` that takes it away."""

    name: str
    file: str
    before: str
    after: str


RULES = (
    Rule("a quorum has signed", "committee.py", "if len(valid) < QUORUM:", "if len(valid) < 0:"),
    Rule("a quorum is four", "roster.py", "QUORUM = 4", "QUORUM = 3"),
    Rule("signatures are checked", "committee.py", "and has_signed(parties[name].signing, message, signature)", ""),
    Rule("members alone sign", "committee.py", "if name in self._seats and", "if name in parties and"),
    Rule("a quorum is for the list that was signed", "committee.py", "if quorum.digest != signed.digest:", "if False:"),
    Rule(
        "one list a round",
        "committee.py",
        "if (session, proposed.round) == (self._session, self._round) and proposed.digest != self._digest:",
        "if False:",
    ),
    Rule(
        "no list of a round that is over",
        "committee.py",
        "if session == self._session and proposed.round < self._round:",
        "if False:",
    ),
    Rule("the list is remembered over a restart", "party.py", '"signed": self._signed,', '"signed": None,'),
    Rule("the list is remembered over committees", "party.py", "self._form, self._signed)", "self._form, None)"),
    Rule("whole groups", "committee.py", "if 0 < there < len(names):", "if False:"),
    Rule("nobody else is in a list", "committee.py", "if unknown := ", "if False and "),
    Rule(
        "a list of this roster and committee",
        "committee.py",
        "if (proposed.roster, proposed.epoch) != (self._roster.digest, self._epoch):",
        "if False:",
    ),
    Rule(
        "a list of this session",
        "committee.py",
        "if proposed.session != session or session < now:",
        "if False:",
    ),
    Rule("a list of these slots", "committee.py", "if proposed.shape[0] != slots:", "if False:"),
    Rule("a mask has a nonce", "roster.py", "answer_round, question, nonce, home)", "answer_round, question, home)"),
    Rule("a mask has a question", "roster.py", "answer_round, question, nonce, home)", "answer_round, nonce, home)"),
    Rule("a mask has a session", "roster.py", '"mask", epoch, session, answer_round', '"mask", epoch, answer_round'),
    Rule("a mask has a round", "roster.py", "session, answer_round, question,", "session, question,"),
    Rule("a mask has an epoch", "roster.py", '"mask", epoch, session', '"mask", session'),
    Rule("keys have an epoch", "roster.py", '"key", epoch, subset', '"key", subset'),
    Rule("a mask has a home's name", "roster.py", "question, nonce, home)\n", "question, nonce)\n"),
    Rule("three committees a roster", "party.py", "if message.epoch >= MOST_EPOCHS:", "if False:"),
    Rule(
        "one roster a session",
        "party.py",
        "if self._bound_in == session and self._bound_to != roster.digest:",
        "if False:",
    ),
    Rule("the roster is remembered over a restart", "party.py", '"answered": self._bound_to,', '"answered": "",'),
    Rule(
        "a home is in the roster with its homes and keys",
        "party.py",
        "if own is None or (own.homes, own.exchange, own.signing) != of_own:",
        "if False:",
    ),
    Rule("the least group", "party.py", "if roster.minimum_group != self._settings.minimum_group:", "if False:"),
    Rule("a committee of five", "roster.py", "if len(self.parties) < COMMITTEE:", "if False:"),
    Rule("enough homes", "roster.py", "if self._weigh(self.parties) < self.minimum_group:", "if False:"),
    Rule(
        "keys are vouched for",
        "party.py",
        "if reason := self._settings.vouch(self.link.run, self.link.coordinator, entry):",
        "if reason := None:",
    ),
    Rule(
        "a collector believes vouched keys alone",
        "sums.py",
        "elif reason := self._vouch(",
        "elif reason := (lambda _: None)(",
    ),
    Rule(
        "an answer to this question",
        "sums.py",
        "return None if answer.question == digest_question(question) else",
        "return None if True else",
    ),
    Rule(
        "an answer under this roster and committee",
        "sums.py",
        "if (answer.roster, answer.epoch) != (roster.digest, self._epoch):",
        "if False:",
    ),
    Rule("an answer of this round", "sums.py", "if answer.round == number and", "if"),
    Rule("a tie is no majority", "sums.py", "(len(found) > 1 and found[1][1] == found[0][1])", "False"),
    Rule("members vote in their own subsets", "sums.py", "each.subset in own and", ""),
    Rule("a sum is checked", "sums.py", "if reason is None:\n                good", "if True:\n                good"),
    Rule("a home whose keys open nowhere is left out", "sums.py", "if count > MISSING", "if count > 9"),
    Rule("numbers stay within the connection", "fixed_point.py", "if beyond.size:", "if False:"),
)


def main() -> int:
    """Try each rule; returns the exit code, 1 where one is missed by nobody."""
    with tempfile.TemporaryDirectory(prefix="stackelgrid-rules-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".venv", ".git", "runs", "build", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        missed_by_nobody = [rule.name for rule in RULES if not _find(tree, rule)]
    for name in missed_by_nobody:
        print(f"missed by nobody: {name}")
    return 1 if missed_by_nobody else 0


def _find(tree: Path, rule: Rule) -> bool:
    """Run the tests without a rule; print the first that fails."""
    file = tree / _MASKS / rule.file
    original = file.read_text()
    if original.count(rule.before) != 1:
        print(f"{rule.name}: {rule.file} has not {rule.before!r} once; write the rule as it stands there", flush=True)
        return False
    file.write_text(original.replace(rule.before, rule.after))
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-p", "no:xdist", *_TESTS]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    file.write_text(original)
    failed = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print(f"{rule.name}: {failed[0][:150] if failed else 'nothing fails'}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
