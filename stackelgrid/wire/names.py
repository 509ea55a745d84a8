"""Names of runs and nodes. A name is a level of a topic, so it has no slashes, wildcards or spaces."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

MAX_NAME_LENGTH = 64
NAME = rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}"
"""A name as a regular expression."""
RULE = "1 to 64 letters of A to Z and a to z, digits, _ and -"
"""The same in words."""

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
"""The name of a run or a node, in a model."""


def is_name(text: str) -> bool:
    """Say whether `text` may name a run or a node."""
    return re.fullmatch(NAME, text) is not None


def name_from(text: str, length: int = 64) -> str:
    """Make a name of a text: a hyphen for every run of characters that a name may not contain."""
    return re.sub("[^A-Za-z0-9_-]+", "-", text)[:length]
