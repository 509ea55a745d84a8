"""The fingerprint of what a run's nodes play: it tells today's messages and ledgers from those of another scenario."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""A digest of what the nodes of a scenario share. Nothing of a listed home but its name is in it."""


class Fingerprint(BaseModel):
    """The game, its number of slots, and a digest of the rest of the scenario that the nodes share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    game: Annotated[str, Field(max_length=64)]
    slots: int
    scenario: Digest

    def describe_difference(self, other: Fingerprint) -> str:
        """Describe in what `other` differs from this one, as far as the two show it."""
        if other.game != self.game:
            return f"of the game {other.game}, this node plays {self.game}"
        if other.slots != self.slots:
            return f"over {other.slots} slots, this node has {self.slots}"
        return "with other prices, other settings or other nodes than this node was configured for"
