"""Who chose what, and why: the family and the scheme of a fit, decided in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .flows.base import Flow
from .schemes.base import Scheme


@dataclass(frozen=True)
class Plan:
    """The family and the scheme of a march.

    Attributes
    ----------
    flow : Flow
        With all its functions chosen.
    scheme : Scheme
    reasons : tuple of str
        Sentences that say who chose them, and why.
    """

    flow: Flow
    scheme: Scheme
    reasons: tuple[str, ...] = ()

    def because(self, *reasons: str) -> Plan:
        """The same plan with more to say."""
        return replace(self, reasons=self.reasons + reasons)

    def __str__(self):
        lines = [f"flow:   {_short(self.flow)}", f"scheme: {_short(self.scheme)}"]
        return "\n".join(lines + [f"- {reason}" for reason in self.reasons])


def _short(component) -> str:
    text = getattr(component, "summary", None)
    return text() if text is not None else repr(component)
