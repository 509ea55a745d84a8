"""What the HTTP interface answers, as its OpenAPI document has it."""

from __future__ import annotations

from typing import Any, Literal

from stackelgrid.model import StrictModel
from stackelgrid.store.summary import RunSummary


class Refusal(StrictModel):
    """Why a request is refused; `key` is the key of it that is wrong."""

    message: str
    key: str = ""


class ScenarioEntry(StrictModel):
    """A scenario that a run can be started from; `form` is the address of its schema."""

    name: str
    game: str
    title: str
    summary: str
    form: str
    content: dict[str, Any]


class PlanEntry(StrictModel):
    """A fault plan, and how many faults it has."""

    name: str
    title: str
    faults: int


class Mistake(StrictModel):
    """A key of a scenario that is wrong, empty where no single one is."""

    key: str
    message: str


class Checked(StrictModel):
    """The mistakes of a scenario; where there are none, its size and what is probably meant otherwise."""

    errors: list[Mistake]
    homes: int = 0
    aggregators: int = 0
    slots: int = 0
    sessions: int = 0
    doubts: list[str] = []


class TreeNode(StrictModel):
    """A node of a run; `homes` counts those that a home's process answers for."""

    name: str
    role: Literal["leader", "aggregator", "home"]
    parent: str | None
    homes: int = 0


class SessionSlots(StrictModel):
    """The slots of the run that a session looks at, and how many of them it binds."""

    number: int
    first: int
    slots: int
    binding: int


class KeyFigure(StrictModel):
    """A number of a result in words."""

    label: str
    value: str


class CertificateCheck(StrictModel):
    """A line of a certificate; `passed` is null where nothing is judged."""

    key: str
    label: str
    meaning: str
    value: str | None
    limit: str
    passed: bool | None


class RunDescription(RunSummary):
    """A run with its nodes, slots, files and result, and that in the words of its report.

    `partly_certified` says how many sessions are certified where some are and others are not.
    One that is unreadable has none of them. It is `stoppable` while the server plays it, and `faultable` where faults
    can strike it, too.
    """

    stoppable: bool = False
    faultable: bool = False
    tree: list[TreeNode] = []
    money: str = ""
    slots: int = 0
    slot_hours: float = 0.0
    times: list[str] | None = None
    sessions: list[SessionSlots] = []
    max_rounds: int = 0
    files: list[str] = []
    result: dict[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    verdict: str = ""
    partly_certified: str = ""
    key_figures: list[KeyFigure] = []
    checks: list[CertificateCheck] = []


class Started(StrictModel):
    """A run that was started."""

    id: str


class Added(StrictModel):
    """A fault that was added to a run, by its number in the plan."""

    fault: int
