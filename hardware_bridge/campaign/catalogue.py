"""The list of faults: what a row of the campaign is, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware_bridge.campaign.audit import Audit, Violation
from hardware_bridge.campaign.stand import Sight, Stand

Clock = Literal["lockstep", "real"]


@dataclass
class Outcome:
    """What a row found.

    Attributes:
        named: what the bridge said, in its own words.
        after: from the damage to that (s); None: it was not detected.
        reaction: what the arm and the bridge did.
        failures: what should have been otherwise; empty: passed.
        packets, goals: looked at by the audit.
        violations: packets outside any limit.
    """

    named: str = ""
    after: float | None = None
    reaction: str = ""
    failures: list[str] | None = None
    packets: int = 0
    goals: int = 0
    violations: tuple[Violation, ...] = ()

    def __post_init__(self) -> None:
        self.failures = [] if self.failures is None else self.failures

    def expect(self, holds: bool, what: str) -> None:
        """Notes what should have been so, unless it was."""
        assert self.failures is not None
        if not holds:
            self.failures.append(what)

    def saw(self, sight: Sight | None, what: str, within: float) -> None:
        """The bridge should have named this, within so many seconds."""
        if sight is None:
            self.expect(False, f"{what} was not named")
            return
        self.named = f"{self.named}, {sight}" if self.named else str(sight)
        self.after = max(self.after or 0.0, sight.after)
        self.expect(sight.after <= within + 1e-6, f"{what} was named after {sight.after:.3f} s")

    def count(self, audit: Audit) -> None:
        """Takes in an audit; a limit that was broken fails the row."""
        self.packets += audit.packets
        self.goals += audit.goals
        self.violations += tuple(audit.violations)

    @property
    def passed(self) -> bool:
        return not self.failures and not self.violations


#: Does a row's fault in a folder of its own, and says what was seen.
Run = Callable[[Path], Outcome]


@dataclass(frozen=True)
class Row:
    """A fault of the list, or one of its cases.

    Attributes:
        number: in the list.
        fault: what is wrong.
        injected: how the twin does it.
        expected: what the bridge must do, and when.
        within: the time for its detection (s).
        clock: ``lockstep`` rows count the twin's own time, ``real`` ones the computer's.
        core: among the 25 that the tests hold.
        run: does it.
    """

    number: int
    fault: str
    injected: str
    expected: str
    within: float
    clock: Clock
    core: bool
    run: Run


ROWS: list[Row] = []
#: The list's own choice for the first tests (hardware facts, 4.4).
CORE = frozenset((1, 4, 5, 7, 8, 9, 10, 12, 13, 15, 16, 17, 20, 21, *range(25, 36)))


def real_row(
    number: int, fault: str, injected: str, expected: str, within: float, clock: Clock = "real"
) -> Callable[[Callable[[Path, float], Outcome]], Callable[[Path, float], Outcome]]:
    """Enters a function of (folder, time allowed) into the list; it looks after everything itself."""

    def enter(function: Callable[[Path, float], Outcome]) -> Callable[[Path, float], Outcome]:
        def run(folder: Path) -> Outcome:
            return function(folder, within)

        ROWS.append(Row(number, fault, injected, expected, within, clock, number in CORE, run))
        return function

    return enter


def row(
    number: int, fault: str, injected: str, expected: str, within: float, **options: object
) -> Callable[[Callable[[Stand, Outcome, float], None]], Callable[[Stand, Outcome, float], None]]:
    """Enters a function of (stand, outcome, time allowed) into the list; the stand is audited afterwards.

    Args:
        number: in the list.
        fault: what is wrong.
        injected: how.
        expected: what must happen.
        within: the time allowed (s).
        **options: for the ``Stand``.
    """

    def enter(
        function: Callable[[Stand, Outcome, float], None],
    ) -> Callable[[Stand, Outcome, float], None]:
        def run(folder: Path) -> Outcome:
            outcome = Outcome()
            with Stand(folder, **options) as stand:  # type: ignore[arg-type]
                function(stand, outcome, within)
                outcome.count(stand.audit())
            return outcome

        ROWS.append(Row(number, fault, injected, expected, within, "lockstep", number in CORE, run))
        return function

    return enter
