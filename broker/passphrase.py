"""The passphrase of an authority's key: from the environment, from a file, or asked for on the terminal."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from broker.files import AuthorityError
from stackelgrid.text_file import read_text

VARIABLE, FILE_VARIABLE = "STACKELGRID_CA_PASSPHRASE", "STACKELGRID_CA_PASSPHRASE_FILE"
SHORTEST = 12
"""The fewest characters of one that is given to a key: who has the file may try as often as he likes."""


def find_passphrase(key: Path) -> str:
    """Find the passphrase of the private key in the file `key`. Raises `AuthorityError`."""
    given = _find_given(key)
    return given or _ask(f"Passphrase of {key}: ", key)


def choose_passphrase(key: Path) -> str:
    """Find the passphrase that a key without one is to have; on the terminal it is asked for twice."""
    given = _find_given(key)
    return _check(given, key) if given else ask_new_passphrase(key)


def ask_new_passphrase(key: Path) -> str:
    """Ask twice for a passphrase that a key is to have."""
    first = _check(_ask(f"New passphrase of {key}: ", key), key)
    if _ask("The same again: ", key) != first:
        raise AuthorityError("the two passphrases differ", str(key), "repeat the command")
    return first


def _find_given(key: Path) -> str:
    """Find what the environment says, empty where it says nothing."""
    file = os.environ.get(FILE_VARIABLE)
    if file is None:
        return os.environ.get(VARIABLE, "")
    try:
        return read_text(Path(file)).rstrip("\r\n")
    except ValueError as error:
        raise AuthorityError(f"{FILE_VARIABLE}={file} {error}", str(key), "name the file with the passphrase") from None


def _ask(question: str, key: Path) -> str:
    if not sys.stdin.isatty():
        mend = f"set {VARIABLE}, or {FILE_VARIABLE} to a file with it, or run it on a terminal"
        raise AuthorityError("the key has a passphrase, and nobody can be asked for it", str(key), mend)
    return getpass.getpass(question)


def _check(passphrase: str, key: Path) -> str:
    if len(passphrase) < SHORTEST:
        what = f"the passphrase has {len(passphrase)} characters"
        raise AuthorityError(what, str(key), f"take one of {SHORTEST} or more, such as five words")
    return passphrase
