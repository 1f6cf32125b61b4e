"""A chart as PNG: its SVG, drawn by resvg (the extra `png`)."""

from functools import lru_cache

from xtuner.errors import EnvironmentFault
from xtuner.tui.widgets.svg_plot import FONTS

ZOOM = 2  # pixels for each unit of the SVG: sharp on a screen with many of them, and in print
_WITHOUT_TEXT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
_WITH_TEXT = _WITHOUT_TEXT.replace("></", f' font-family="{FONTS}" font-size="9"><text y="9">0</text></')


def draw_png(svg: str) -> bytes:
    """The picture, `ZOOM` times as large, without a background.

    Raises:
        EnvironmentFault: see `why_no_png`.
    """
    fault = why_no_png()
    if fault is not None:
        raise fault
    return _draw(svg)


@lru_cache(maxsize=1)
def why_no_png() -> EnvironmentFault | None:
    """What a PNG cannot be drawn without, and how to get it; None where one can be drawn."""
    try:
        has_fonts = _draw(_WITH_TEXT) != _draw(_WITHOUT_TEXT)
    except ImportError:
        return EnvironmentFault("PNG pictures need the package resvg-py", hint='pip install "xtuner[png]"')
    if not has_fonts:  # resvg leaves out what it has no font for, and a chart without numbers is none
        return EnvironmentFault("PNG pictures need a font, and none is installed", hint="apt install fonts-dejavu-core")
    return None


def _draw(svg: str) -> bytes:
    import resvg_py

    return resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM)
