"""The part of an EMC in private sums. Only where sums are masked is it imported, and with it all that encrypts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from emc_node.node import CreateParty
from stackelgrid.masks.form import MaskedForm
from stackelgrid.masks.party import Party, PartySettings
from stackelgrid.node.private_sums import Draw, draw_securely, prove_by, vouch_by
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.codec import Link

_NONCE_BYTES = 16


def make_party(
    name: str,
    homes: int,
    form: MaskedForm,
    minimum_group: int,
    max_kw: float | None,
    tls: Tls | None,
    draw: Draw | None = None,
) -> CreateParty:
    """Make what creates the part in private sums of the process `name` of so many homes. Its secret is drawn once.

    With `tls` keys are proven by its certificate. Raises `ValueError` for files that have none.
    """
    draw, settings = draw or draw_securely, PartySettings(homes, minimum_group, max_kw)
    if tls is not None:
        settings = replace(settings, prove=prove_by(tls), vouch=vouch_by(tls))

    def create(
        link: Link, object_to: Callable[[str, str], None], saved: Mapping[str, Any]
    ) -> tuple[Party, Mapping[str, Any]]:
        secret = bytes.fromhex(saved["secret"]) if saved else draw("secret")
        party = Party(name, link, form, settings, secret, draw_nonce, object_to, saved.get("party"))
        return party, {"secret": secret.hex()}

    def draw_nonce() -> str:
        return draw("nonce")[:_NONCE_BYTES].hex()

    return create
