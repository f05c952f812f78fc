"""Fixed colours for roles, safe for colour-blind readers (Okabe and Ito), each with a value for dark pages.

Figures are drawn in the light colours. In a page they become CSS variables, which the dark scheme changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Colour:
    """A CSS variable with its value on light and dark pages, and the marker that goes with it."""

    variable: str
    light: str
    dark: str
    marker: str = "o"


INK = Colour("ink", "#1f2328", "#e6e9ed")
MUTED = Colour("muted", "#5b6570", "#9aa5b1")
GRID = Colour("grid", "#dfe4ea", "#30363e")
SURFACE = Colour("surface", "#fffffe", "#15191e")  # not pure white, so that no other white becomes this variable

OFFLINE = Colour("offline", "#d55e00", "#ff8f45", "o")
ONLINE_TEACHER = Colour("online-teacher", "#0072b2", "#5ab8f0", "s")
ONLINE_STUDENT = Colour("online-student", "#009e73", "#3fd3a8", "^")
MIXTURE = Colour("mixture", "#b0578d", "#e79bc5", "D")
OTHERS = (
    Colour("other-1", "#8a6d00", "#f0c93c", "v"),
    Colour("other-2", "#5e4fa2", "#a99cf0", "P"),
    Colour("other-3", "#4d7c0f", "#a3d15c", "X"),
    Colour("other-4", "#9f1239", "#fb7c98", "<"),
    Colour("other-5", "#0e7490", "#4fd1e8", ">"),
    Colour("other-6", "#6b4f3a", "#d3ae8f", "h"),
)
# Along an axis that starts at offline: towards what hacks more, and towards what hacks less.
WORSE = (
    Colour("worse-1", "#b0304f", "#ff7a93", "v"),
    Colour("worse-2", "#6a2c8f", "#c79bff", "P"),
    Colour("worse-3", "#33206b", "#9d8cff", "X"),
)
BETTER = (
    Colour("better-1", "#a87900", "#f2c14e", "v"),
    Colour("better-2", "#5b8a2d", "#a8d672", "D"),
    Colour("better-3", "#12827c", "#4fd8cd", "^"),
    ONLINE_TEACHER,
)
_BY_KIND = {
    "offline": OFFLINE,
    "online-teacher": ONLINE_TEACHER,
    "online-student": ONLINE_STUDENT,
    "mixture": MIXTURE,
}
ALL = (INK, MUTED, GRID, SURFACE, *_BY_KIND.values(), *OTHERS, *WORSE, *BETTER[:-1])


def assign(arms: Sequence[tuple[str, str]]) -> list[Colour]:
    """A colour per (arm's name, its source): the role's own where it is free, else the next of the others."""
    taken: set[str] = set()
    given: list[Colour] = []
    for name, kind in arms:
        own = _BY_KIND.get(name) or _BY_KIND.get(kind)
        if own is None or own.variable in taken:
            free = [other for other in OTHERS if other.variable not in taken]
            own = free[0] if free else OTHERS[len(given) % len(OTHERS)]
        taken.add(own.variable)
        given.append(own)
    return given


def doses(count: int, *, worse: bool) -> list[Colour]:
    """Offline's colour for the first arm of an axis, then away from it: four colours at most, or five."""
    return [OFFLINE, *(WORSE if worse else BETTER)][:count]


def variables(dark: bool) -> str:
    """CSS declarations of all colours."""
    return "".join(f"--{colour.variable}:{colour.dark if dark else colour.light};" for colour in ALL)
