"""The requests for certificates that an authority keeps, each in a file: `authority/requests/ID.json`.

A stranger's request waits for the operator, and what came of it stays. A node's renewal is granted at once; it is kept
so that a node that missed the answer finds it.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from broker.files import AuthorityError, make_private, write
from broker.register import now
from stackelgrid.model import StrictModel
from stackelgrid.wire.enrolment import EnrolmentRequest, KeyId, Pem, show_fingerprint
from stackelgrid.wire.messages import MAX_REASON
from stackelgrid.wire.names import Name

MOST_WAITING = 200
"""The requests of strangers that wait at a time. Each costs a file of 5 KiB at most, and a short retained message."""
WAIT = KEEP_DENIED = timedelta(days=7)
"""The time after which a request that nobody has decided on is forgotten, and so is a denied one."""


class RefusedRequestError(Exception):
    """A request that is not kept. `kind` is a word or two, for counters; `reason` is for who sent it.

    `key` is the ID of its key, where it is one.
    """

    def __init__(self, kind: str, reason: str, key: str | None = None) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.key = key


class KeptRequest(StrictModel):
    """A request, and what has become of it: who decided (`by`), the `reason`, the `certificate`.

    A `renewal` has no `enrolment`.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    id: KeyId
    name: Name
    received: AwareDatetime
    enrolment: EnrolmentRequest | None = None
    state: Literal["waiting", "approved", "denied"] = "waiting"
    decided: AwareDatetime | None = None
    by: str | None = None
    reason: Annotated[str | None, Field(max_length=MAX_REASON)] = None
    certificate: Pem | None = None

    def repeats(self, wish: EnrolmentRequest) -> bool:
        """Tell whether `wish` is this request, signed anew or not."""
        asked = self.enrolment
        return asked is not None and asked == wish.model_copy(update={"csr": asked.csr})

    @property
    def fingerprint(self) -> str:
        """The ID as people compare it."""
        return show_fingerprint(self.id)


class Requests:
    """The requests in `folder`. Whoever changes them holds the authority's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self) -> list[KeptRequest]:
        """List the requests, the oldest first. Raises `AuthorityError` for a file that is damaged."""
        kept = []
        for path in self._folder.glob("*.json"):
            try:
                kept.append(KeptRequest.model_validate_json(path.read_bytes()))
            except FileNotFoundError:
                pass  # forgotten since
            except ValidationError as error:
                what = f"the request is damaged: {error.errors(include_url=False)[0]['msg']}"
                raise AuthorityError(what, str(path), "remove the file; its sender asks again") from None
        return sorted(kept, key=lambda each: (each.received, each.id))

    def save(self, request: KeptRequest) -> None:
        """Write a request in place of what is there by its ID."""
        make_private(self._folder)
        write(self._folder / f"{request.id}.json", request.model_dump_json(by_alias=True, indent=1).encode(), 0o600)

    def forget(self, *requests: KeptRequest) -> None:
        """Remove requests."""
        for request in requests:
            (self._folder / f"{request.id}.json").unlink(missing_ok=True)

    def forget_old(self) -> None:
        """Remove what has waited too long, and what was denied long ago."""
        then = now()
        self.forget(
            *(
                each
                for each in self.list()
                if (each.state == "waiting" and then - each.received > WAIT)
                or (each.state == "denied" and then - (each.decided or each.received) > KEEP_DENIED)
            )
        )

    def find_waiting(self, which: str, granted: Container[str | None] = ()) -> KeptRequest:
        """Find the request that waits, by its name or the beginning of its fingerprint. Raises `AuthorityError`.

        One that is approved waits too, as long as its ID is not in `granted`, the keys that have a certificate.
        """
        digits = which.replace(" ", "").lower()
        waiting = [
            each
            for each in self.list()
            if each.state == "waiting" or (each.state == "approved" and each.id not in granted)
        ]
        found = [each for each in waiting if each.name == which] or [
            each for each in waiting if len(digits) >= 4 and each.id.startswith(digits)
        ]
        if not found:
            raise AuthorityError(f"no request {which!r} waits", str(self._folder), "see stackelgrid certs requests")
        if len(found) > 1:
            prints = ", ".join(each.fingerprint for each in found[:5])
            mend = f"name the fingerprint that the home shows, in quotes: {prints}"
            raise AuthorityError(f"{len(found)} requests are for {which!r}", str(self._folder), mend)
        return found[0]
