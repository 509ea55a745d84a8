"""The register of an authority: every certificate that it gave, and with that who belongs to the grid.

It is plain JSON in `authority/register.json`. A change makes another register; `broker.authority` writes it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, ValidationError

from broker.access import Node, Role
from broker.files import AuthorityError
from stackelgrid.model import RUN_NEWER, SchemaVersion, StrictModel
from stackelgrid.wire.enrolment import KeyId
from stackelgrid.wire.messages import MAX_NAMES, MAX_REASON
from stackelgrid.wire.names import Name

RESTORE = "restore the folder from a copy, or make a new authority elsewhere and everybody's certificates anew"
FORGET_AFTER = timedelta(days=90)
"""The time after which an expired certificate leaves the register, where its owner has had another since."""


SHORTEST_LIFETIME = timedelta(hours=1)


class CertificateEntry(StrictModel):
    """A certificate in the register: its owner, its serial number in hexadecimal, the times between which it holds.

    `key` is the ID of its public key, `issuer` of the authority's by which it is signed. `moved_from` is the aggregator
    of before a move, until the home has come to the other one. Who revoked it is `revoked_by`, the `reason` says why.
    """

    name: Name
    role: Role
    above: Name | None
    moved_from: Name | None = None
    homes: Annotated[int, Field(ge=1, le=MAX_NAMES)] = 1
    max_kw: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    key: KeyId | None = None
    issuer: KeyId | None = None
    serial: Annotated[str, Field(pattern="^[0-9a-f]{1,40}$")]
    added: AwareDatetime
    expires: AwareDatetime
    revoked: AwareDatetime | None = None
    revoked_by: str | None = None
    reason: Annotated[str | None, Field(max_length=MAX_REASON)] = None

    @property
    def node(self) -> Node:
        """Its owner."""
        return Node(self.name, self.role, self.above, self.homes, self.max_kw, self.moved_from)


class Register(StrictModel):
    """Every certificate that the authority ever gave, and the names of the broker's machine.

    `number` grows with each change. A home's certificate holds for `home_lifetime`, where there is one.
    """

    schema_version: SchemaVersion = 1
    number: Annotated[int, Field(ge=0)] = 0
    hosts: tuple[str, ...]
    home_lifetime: Annotated[timedelta | None, Field(ge=SHORTEST_LIFETIME)] = None
    certified: tuple[CertificateEntry, ...]

    @property
    def in_force(self) -> dict[str, CertificateEntry]:
        """The certificates that are not revoked, by name: for each the newest."""
        return {entry.name: entry for entry in self.certified if entry.revoked is None}

    @property
    def members(self) -> dict[str, list[CertificateEntry]]:
        """The homes of each aggregator, by name."""
        homes = [entry for entry in self.in_force.values() if entry.role is Role.home]
        return {
            name: sorted((home for home in homes if home.above == name), key=lambda home: home.name)
            for name, entry in sorted(self.in_force.items())
            if entry.role is Role.aggregator
        }

    def find_smallest(self) -> str | None:
        """Find the aggregator with the fewest homes, None where there is no aggregator."""
        sizes = {name: sum(home.homes for home in homes) for name, homes in self.members.items()}
        return min(sizes, key=lambda name: sizes[name], default=None)

    def enter(self, *entries: CertificateEntry) -> Register:
        """Add certificates, and forget those that have expired long ago and were followed by others."""
        certified = (*self.certified, *entries)
        newest = {entry.name: entry.serial for entry in certified}
        then = now() - FORGET_AFTER
        kept = (entry for entry in certified if entry.expires > then or entry.serial == newest[entry.name])
        return self._change(certified=tuple(kept))

    def revoke(self, name: str, by: str | None = None, reason: str | None = None) -> Register:
        """Mark the certificates in force of `name` as revoked."""
        return self._change_entries(name, {"revoked": now(), "revoked_by": by, "reason": reason})

    def describe(self, name: str, **values: Any) -> Register:
        """Give the owner of a certificate in force other values of `above`, `moved_from`, `homes` or `max_kw`."""
        return self._change_entries(name, values)

    def renumber(self) -> Register:
        """Count a change of something else."""
        return self._change()

    def _change_entries(self, name: str, values: dict[str, Any]) -> Register:
        changed = (
            entry.model_copy(update=values) if entry.name == name and entry.revoked is None else entry
            for entry in self.certified
        )
        return self._change(certified=tuple(changed))

    def _change(self, **values: Any) -> Register:
        return self.model_copy(update={**values, "number": self.number + 1})


def now() -> datetime:
    """Give this moment, to the second, as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


def register_path(folder: Path) -> Path:
    """Give the place of the register in an authority's folder."""
    return folder / "authority" / "register.json"


def read_register(folder: Path) -> Register:
    """Read the register in an authority's folder. Raises `AuthorityError`."""
    path = register_path(folder)
    try:
        return Register.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AuthorityError(f"the register cannot be read: {error.strerror}", str(path), "make it readable") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        if key == "schema" and first["type"] == "value_error":
            raise AuthorityError("a newer version of Stackelgrid wrote the register", str(path), RUN_NEWER) from None
        raise AuthorityError(f"the register is damaged, {key}: {first['msg']}", str(path), RESTORE) from None
