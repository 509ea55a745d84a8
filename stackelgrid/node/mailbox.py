"""The messages to a node: a payload that is none is counted, logged once and ignored."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from stackelgrid.wire.codec import AnotherGameError, BadMessageError, Channel
from stackelgrid.wire.messages import Message, Settlement, Signal

_LOG = logging.getLogger("stackelgrid.mailbox")


class Mailbox:
    """Reads what arrives on a node's links.

    `rejected` counts by reason what could not be read; the first of each reason and topic kind is logged. `objection`
    says what was wrong with the latest.
    """

    def __init__(self, *links: Channel) -> None:
        self._links: Sequence[Channel] = links
        self._logged: set[tuple[str, str]] = set()
        self._same_game: set[str] = set()  # the links whose coordinator has asked for this game
        self.rejected: Counter[str] = Counter()
        self.objection = ""

    def replace(self, link: Channel, other: Channel) -> None:
        """Read from another link in place of one of them."""
        self._links = [other if each is link else each for each in self._links]

    def read(self, topic: str, payload: bytes) -> tuple[Channel, Message] | None:
        """Give the message and the link that it came on, None where it is no message.

        Raises `AnotherGameError` where the first that comes of a coordinator is of another game. Once one was of this
        game, a node does not end because a later message was damaged or is somebody else's.
        """
        link = self._links[0]
        for candidate in self._links[1:]:
            if topic.startswith(f"{candidate.root}/"):
                link = candidate
        try:
            message = link.read(topic, payload)
        except AnotherGameError as error:
            if link.root not in self._same_game:
                raise
            self.reject("foreign", topic, str(error))
            return None
        except BadMessageError as error:
            self.reject(error.reason, topic, error.detail)
            return None
        if isinstance(message, Signal | Settlement):
            self._same_game.add(link.root)
        return link, message

    def reject(self, reason: str, topic: str, detail: str) -> None:
        """Count a message that is not acted on; log the first of its kind."""
        self.rejected[reason] += 1
        self.objection = detail
        kind = (reason, topic.rsplit("/", 1)[-1])
        if kind not in self._logged:
            self._logged.add(kind)
            _LOG.warning("message ignored", extra={"data": {"reason": reason, "detail": detail[:500]}})
