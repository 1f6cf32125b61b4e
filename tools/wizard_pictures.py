"""Pictures of the wizard for the documentation, in English and in Chinese.

    python tools/wizard_pictures.py docs/images

Each run of text has its place and width in cells, so that columns stand under each other in any font.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from xtuner.demo.build import build_demo
from xtuner.language import LANGUAGES, speak
from xtuner.launch.devices import Hardware
from xtuner.launch.plan import LaunchPlan
from xtuner.tui.wizard.answers import Answer, Answers
from xtuner.tui.wizard.app import WizardApp
from xtuner.tui.wizard.inspection import Inspector
from xtuner.v1.config import TrainerConfig

SIZE = (132, 30)
HARDWARE = Hardware("cpu", "this machine", 0, 64.0, 64.0)
STEPS = {"data": "f2", "hardware": "f3"}
ALT = {
    "data": "The step Data: questions, the format and lengths of the rows, a chat with its trained lines marked",
    "hardware": "The step Method and hardware: questions, and the memory of each process by component",
}
_CELL, _LINE, _MARGIN = 8.4, 18, 12
_FONT = '14px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono","Noto Sans Mono CJK SC",monospace'


async def take(language: str, directory: Path) -> None:
    """Write the pictures of `language`; the demo's model and chats lie in the working directory."""
    speak(language)
    answers = Answers({"load_from": Answer("model", "flag"), "dataset": Answer("chats.jsonl", "flag")})
    app = WizardApp(answers, Inspector(HARDWARE, LaunchPlan(TrainerConfig(), nproc_per_node=1)))
    async with app.run_test(size=SIZE) as pilot:
        while app._look is None or app._look.health is None:
            await asyncio.sleep(0.1)
        for step, key in STEPS.items():
            await pilot.press(key)
            await pilot.pause(0.5)
            ending = "" if language == "en" else f"-{language}"
            picture = to_svg(app.screen._compositor.render_strips(), ALT[step])
            (directory / f"wizard-{step}{ending}.svg").write_text(picture, encoding="utf-8")


def to_svg(strips: list[Strip], alt: str) -> str:
    """The rows of a screen as an SVG; `alt` says what it shows."""
    width, height = (round(2 * _MARGIN + size * unit) for size, unit in zip(SIZE, (_CELL, _LINE), strict=True))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(alt)}">',
        f"<style>text{{font:{_FONT};white-space:pre}}</style>",
        '<rect width="100%" height="100%" rx="8" fill="#121212"/>',
    ]
    for row, strip in enumerate(strips):
        cell = 0
        for text, style in _runs(strip):
            lines += _run(text, style, _MARGIN + cell * _CELL, _MARGIN + row * _LINE)
            cell += cell_len(text)
    return "\n".join([*lines, "</svg>", ""])


def _runs(strip: Strip) -> Iterator[tuple[str, Style]]:
    """Pieces of one style and one width of characters."""
    for segment in Segment.simplify(strip):
        for _, characters in groupby(segment.text, cell_len):
            yield "".join(characters), segment.style or Style()


def _run(text: str, style: Style, x: float, y: float) -> Iterator[str]:
    ink, ground = style.color, style.bgcolor
    if style.reverse:
        ink, ground = ground, ink
    width = cell_len(text) * _CELL
    if ground is not None and not ground.is_default:
        yield f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_LINE}" fill="{_colour(ground)}"/>'
    if not text.strip():
        return
    begun = len(text) - len(text.lstrip(" "))
    x += begun * _CELL
    text = text.strip(" ")
    looks = "".join(
        look
        for is_on, look in (
            (style.bold, ' font-weight="bold"'),
            (style.italic, ' font-style="italic"'),
            (style.underline, ' text-decoration="underline"'),
            (style.dim, ' opacity="0.6"'),
        )
        if is_on
    )
    fill = "#e0e0e0" if ink is None or ink.is_default else _colour(ink)
    length = cell_len(text) * _CELL
    yield f'<text x="{x:.1f}" y="{y + 13}" textLength="{length:.1f}" fill="{fill}"{looks}>{escape(text)}</text>'


def _colour(colour: object) -> str:
    return str(colour.get_truecolor().hex)  # type: ignore[attr-defined]


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "HF_HUB_CACHE": folder}
        os.chdir(folder)
        build_demo(Path(folder))
        for language in LANGUAGES:
            asyncio.run(take(language, directory))


if __name__ == "__main__":
    main()
