"""The messages of private sums: masked answers, the keys and secrets of their masks, and what a committee agrees on.

The bytes of digests, keys, nonces and signatures are lower-case hexadecimal, those of words and sealed secrets base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, field_validator, model_validator

from stackelgrid.wire.arrays import MAX_CELLS, MAX_SLOTS
from stackelgrid.wire.messages import MAX_NAMES, MAX_ROUND, Body, Message, OfSession, Round
from stackelgrid.wire.names import Name

COMMITTEE = 5
"""The homes' processes that know the masks of one aggregator's homes."""
SUBSETS = 10
"""The subsets of three members of a committee; each has a mask of its own."""
MAX_WORDS = MAX_CELLS
"""No answer has more numbers."""
MAX_GROUPS = MAX_NAMES // COMMITTEE
MAX_SHAPE = 8
"""No shape has more numbers."""
MAX_CERTIFICATE, MAX_SIGNATURE, MAX_SHARE = 4096, 1024, 1024
"""Characters of a certificate, of a signature that its key makes, and of sealed secrets."""


def _require_base64(text: str) -> str:
    _read_base64(text)
    return text


def _require_words(text: str) -> str:
    size = len(_read_base64(text))
    if size % 8 or not 8 <= size <= 8 * MAX_WORDS:
        raise ValueError(f"it has {size} bytes, no words of 8 bytes or too many of them")
    return text


def _read_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is not base64: {error}") from None


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256, of a question, a roster or a list."""
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A public key of X25519 or Ed25519."""
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""A signature of Ed25519."""
Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""What one answer alone has, and its mask belongs to."""
Epoch = Annotated[int, Field(ge=0, le=MAX_ROUND)]
"""The number of a committee under one roster, from 0."""
Homes = Annotated[int, Field(ge=1, le=1_000_000)]
SealedShare = Annotated[str, Field(min_length=4, max_length=MAX_SHARE), AfterValidator(_require_base64)]
"""What one home tells one member of the committee, which nobody else can open."""
EncodedWords = Annotated[str, Field(max_length=4 * (8 * MAX_WORDS // 3 + 1)), AfterValidator(_require_words)]
"""Little-endian 64-bit words."""
EncodedShape = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_CELLS)]], FailFast(), Field(min_length=1, max_length=MAX_SHAPE)
]
"""What a question asks for, in small numbers; the first is the number of slots, and not 0."""


class MaskedAnswer(Body):
    """Up: the answer of `homes` homes in fixed point with their mask on it, `words`, to a question of that `shape`.

    The mask is of `round`, `question`, `roster` and `epoch`, and of this answer alone by its `nonce`.
    """

    homes: Homes
    round: Round
    roster: Digest
    epoch: Epoch
    nonce: Nonce
    question: Digest
    shape: EncodedShape
    words: EncodedWords

    @classmethod
    def of(
        cls,
        homes: int,
        answer_round: int,
        roster: str,
        epoch: int,
        nonce: str,
        question: str,
        shape: Iterable[int],
        words: NDArray[np.uint64],
    ) -> Self:
        """Write `words`, (count,), modulo 2**64."""
        return cls(
            homes=homes,
            round=answer_round,
            roster=roster,
            epoch=epoch,
            nonce=nonce,
            question=question,
            shape=list(shape),
            words=encode_words(words),
        )

    @property
    def slots(self) -> int:
        """The number of slots."""
        return self.shape[0]

    def words_array(self) -> NDArray[np.uint64]:
        """Read the words, (count,)."""
        return decode_words(self.words)

    @field_validator("shape")
    @classmethod
    def _check_shape(cls, shape: list[int]) -> list[int]:
        return _require_slots(shape)


# --- keys, and who has the masks ---


class _PublicKeys(BaseModel):
    """What a process and the homes behind it have masks by.

    `exchange` is of X25519, `signing` of Ed25519. Where the run has certificates, `certificate` is that of the process,
    PEM, and `signature` by its key says that the others are its keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    homes: Homes
    exchange: PublicKey
    signing: PublicKey
    certificate: Annotated[str | None, Field(max_length=MAX_CERTIFICATE)] = None
    signature: Annotated[str | None, Field(pattern="^([0-9a-f]{2})+$", max_length=MAX_SIGNATURE)] = None

    @property
    def public(self) -> tuple[int, str, str]:
        """The homes and the keys, without what proves them, which is another each time."""
        return self.homes, self.exchange, self.signing

    @model_validator(mode="after")
    def _check_proof(self) -> Self:
        if (self.certificate is None) != (self.signature is None):
            raise ValueError("give certificate and signature, or neither")
        return self


class MaskEntry(_PublicKeys):
    """One process of a roster: its name, how many homes are behind it, and its public keys."""

    name: Name

    def signed_bytes(self, run: str, aggregator: str) -> bytes:
        """Give what the certificate's key signs: that these are the process's keys, for one aggregator of one run."""
        return _canonical("keys", run, aggregator, self.name, self.homes, self.exchange, self.signing)


class MaskKeys(_PublicKeys, Message):
    """A home's public keys, for the roster: its `entry`. They are retained."""

    purpose = "keys"

    @property
    def entry(self) -> MaskEntry:
        """The same as an entry of a roster."""
        return MaskEntry(name=self.sender, **self.model_dump(include=set(_PublicKeys.model_fields)))


class MaskRoster(OfSession):
    """An aggregator's list of its homes' processes, whose answers are added in groups of at least `minimum_group`.

    It goes to all of them and is retained. `epoch` says which committee of it holds. From those in `wanted` the shares
    are wanted that they seal for this committee.
    """

    purpose = "committee"

    minimum_group: Annotated[int, Field(ge=COMMITTEE, le=MAX_NAMES)]
    epoch: Epoch
    homes: Annotated[list[MaskEntry], FailFast(), Field(min_length=1, max_length=MAX_NAMES)]
    wanted: Annotated[list[Name], FailFast(), Field(max_length=MAX_NAMES)] = []

    @cached_property
    def digest(self) -> str:
        """The digest by which masks and messages name the roster: of its homes, in any order, and the least group."""
        entries = [
            [each.name, each.homes, each.exchange, each.signing, each.certificate, each.signature]
            for each in sorted(self.homes, key=_name_of)
        ]
        return _digest("roster", self.run, self.sender, self.minimum_group, entries)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        _require_different(each.name for each in self.homes)
        return self


class MaskShares(OfSession):
    """The secrets of a home's masks, sealed for each member of the committee, by its name."""

    purpose = "shares"

    roster: Digest
    epoch: Epoch
    shares: Annotated[dict[Name, SealedShare], Field(min_length=1, max_length=COMMITTEE)]


class EntrustedShares(OfSession):
    """What the homes have sealed for one member of the committee, by the home's name. It is retained."""

    purpose = "entrusted"

    roster: Digest
    epoch: Epoch
    shares: Annotated[dict[Name, SealedShare], Field(max_length=MAX_NAMES)]


class ShareReceipt(OfSession):
    """A member's word that it has got what was entrusted to it; of the homes in `missing` it could open nothing."""

    purpose = "holding"

    roster: Digest
    epoch: Epoch
    missing: Annotated[list[Name], FailFast(), Field(max_length=MAX_NAMES)] = []


# --- what a committee agrees on in a round ---


class MaskList(OfSession):
    """An aggregator's list, to one member of the committee: which answers to one question are to be in the sums.

    It names each by the process and its nonce. `question` is a digest, `shape` what the question asks for.
    """

    purpose = "list"

    roster: Digest
    epoch: Epoch
    round: Round
    question: Digest
    shape: EncodedShape
    nonces: Annotated[dict[Name, Nonce], Field(min_length=1, max_length=MAX_NAMES)]

    @cached_property
    def digest(self) -> str:
        """The digest that members sign: of the whole list, its answers in any order."""
        about = self.run, self.sender, self.session, self.roster, self.epoch, self.round, self.question, self.shape
        return _digest("list", *about, sorted(self.nonces.items()))

    def signed_bytes(self) -> bytes:
        """Give what a member signs."""
        return _canonical("signed list", self.digest)

    @field_validator("shape")
    @classmethod
    def _check_shape(cls, shape: list[int]) -> list[int]:
        return _require_slots(shape)


class ListSignature(OfSession):
    """A member's signature, by its signing key, of the one list of a round that it has accepted."""

    purpose = "signature"

    round: Round
    digest: Digest
    signature: Signature


class Quorum(OfSession):
    """An aggregator's proof to a member that others have signed the same list: their signatures by their names."""

    purpose = "quorum"

    round: Round
    digest: Digest
    signatures: Annotated[dict[Name, Signature], Field(min_length=1, max_length=COMMITTEE)]


class MaskSum(BaseModel):
    """The sum of the masks of one subset of the committee on the answers of one group, `words`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    subset: Annotated[int, Field(ge=0, lt=SUBSETS)]
    group: Annotated[int, Field(ge=0, lt=MAX_GROUPS)]
    words: EncodedWords

    @classmethod
    def of(cls, subset: int, group: int, words: NDArray[np.uint64]) -> Self:
        """Write `words`, (count,), modulo 2**64."""
        return cls(subset=subset, group=group, words=encode_words(words))

    def words_array(self) -> NDArray[np.uint64]:
        """Read the words, (count,)."""
        return decode_words(self.words)


class MaskSums(OfSession):
    """A member's sums of masks for the list of a round that a quorum has signed."""

    purpose = "masks"

    round: Round
    digest: Digest
    sums: Annotated[list[MaskSum], FailFast(), Field(max_length=SUBSETS * MAX_GROUPS)]

    @model_validator(mode="after")
    def _check_sums(self) -> Self:
        if len({(each.subset, each.group) for each in self.sums}) < len(self.sums):
            raise ValueError("a subset has two sums for one group")
        return self


def digest_question(question: Body) -> str:
    """Give the digest by which masks and lists name a question: of its JSON, as a link writes it."""
    return hashlib.sha256(question.model_dump_json(by_alias=True, exclude_none=True).encode()).hexdigest()


def encode_share(box: bytes) -> str:
    """Write a sealed share as base64."""
    return base64.b64encode(box).decode()


def read_share(share: str) -> bytes:
    """Read what `encode_share` wrote."""
    return base64.b64decode(share)


def encode_words(words: NDArray[np.uint64]) -> str:
    """Write words, (count,), as the base64 of their little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(words, "<u8").tobytes()).decode()


def decode_words(text: str) -> NDArray[np.uint64]:
    """Read what `encode_words` wrote, (count,)."""
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)


def _digest(*content: object) -> str:
    return hashlib.sha256(_canonical(*content)).hexdigest()


def _canonical(*content: object) -> bytes:
    """Write numbers, texts, None and lists of these as they are digested and signed: a JSON array, ASCII, no spaces."""
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _name_of(entry: MaskEntry) -> str:
    return entry.name


def _require_slots(shape: list[int]) -> list[int]:
    if not 1 <= shape[0] <= MAX_SLOTS:
        raise ValueError(f"a shape for {shape[0]} slots, 1 to {MAX_SLOTS} can be asked")
    return shape


def _require_different(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name} is there twice")
        seen.add(name)
