"""The report's colours: one set for light, one for dark, and matplotlib's part in them.

A plot for the page is drawn in placeholder colours, which then become the page's variables: the
same drawing is light or dark as its reader's screen is. A plot for a file has the light colours.
The ramp runs from the ground to one strong hue, so that it also reads without colour; the other
colours are Okabe & Ito's ("Color Universal Design", 2008), darkened or lightened until they have
a contrast of at least 3 (4.5 where text wears them) with the ground.
"""

from collections.abc import Mapping

STEPS = 9  # of the ramp

_LIGHT_RAMP = (
    "#f1f4f6 #dce8ee #bcd8e4 #93c3d7 #62a8c4 #3389ac #166a90 #0b4d72 #073252"
).split()  # fmt: skip
_DARK_RAMP = (
    "#20262b #22343f #234556 #245970 #26708d #2f8cae #4fa9c9 #84c6de #c4e6f2"
).split()  # fmt: skip

LIGHT: Mapping[str, str] = {
    "ground": "#ffffff",
    "ink": "#1b1f23",
    "soft": "#57606a",
    "line": "#d3d9df",
    "leak": "#b3460f",
    "safe": "#00694b",
    "open": "#7a5b00",
    **{f"ramp{k}": colour for k, colour in enumerate(_LIGHT_RAMP)},
    **{f"on{k}": "#1b1f23" if k < 5 else "#ffffff" for k in range(STEPS)},
}
DARK: Mapping[str, str] = {
    "ground": "#14181b",
    "ink": "#e8ecef",
    "soft": "#a3adb6",
    "line": "#39424a",
    "leak": "#ff9c66",
    "safe": "#4fd1a5",
    "open": "#e6c229",
    **{f"ramp{k}": colour for k, colour in enumerate(_DARK_RAMP)},
    **{f"on{k}": "#ffffff" if k < 5 else "#0b0e10" for k in range(STEPS)},
}
PLACEHOLDERS: Mapping[str, str] = {name: f"#fe{place:02x}01" for place, name in enumerate(LIGHT)}


def step(value: float) -> int:
    """Return the ramp's step for a share in [0, 1]; only a whole 1 reaches the last."""
    return STEPS - 1 if value >= 1 else min(STEPS - 2, int(max(value, 0.0) * (STEPS - 1)))


def variables(colours: Mapping[str, str]) -> str:
    """Return ``colours`` as the CSS variables that the page and its plots use."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
