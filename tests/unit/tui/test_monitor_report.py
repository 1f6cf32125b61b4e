"""The report of a run: a page, the pictures of its charts, all values."""

import csv
import io
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from hostile import CONTROLS, STRINGS
from list_series import ListSeries
from monitor_runs import RunWriter, healthy_run
from monitor_screen import drive
from PIL import Image

from xtuner.cli.app import run
from xtuner.errors import EnvironmentFault, UsageError
from xtuner.tui.monitor.report import report_newest
from xtuner.tui.widgets import png_plot
from xtuner.tui.widgets.plot import Curve, Marker, Plot
from xtuner.tui.widgets.png_plot import ZOOM, draw_png, why_no_png
from xtuner.tui.widgets.svg_plot import FONTS, HEIGHT, WIDTH, draw_svg, shared_view

draws_png = pytest.mark.skipif(why_no_png() is not None, reason=str(why_no_png()))


def snapshot(directory):
    return {str(path): path.lstat().st_mtime_ns for path in [directory, *directory.rglob("*")]}


def places(svg):
    """All points of the lines of a picture."""
    paths = [element.get("d") for element in ElementTree.fromstring(svg).iter() if element.get("fill") == "none"]
    return [tuple(map(float, pair)) for path in paths for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


@draws_png
def test_page_pictures_and_values(tmp_path):
    writer = healthy_run(tmp_path / "work")
    writer.write_record(memory_estimate_gib=16.5)
    before = snapshot(tmp_path / "work")
    page = report_newest(tmp_path / "work", tmp_path / "report").read_text()
    assert snapshot(tmp_path / "work") == before
    assert "running, step 300 of 1,000" in page and "Qwen3-0.6B" in page and "torchrun sft" in page
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert pictures[:2] == ["loss.svg", "memory.svg"]
    for name in pictures:
        assert places((tmp_path / "report" / name).read_text())
        assert read_png((tmp_path / "report" / name).with_suffix(".png").read_bytes()).size == (2 * WIDTH, 2 * HEIGHT)
    dashed = [name for name in pictures if 'stroke-dasharray="6 4"' in (tmp_path / "report" / name).read_text()]
    assert dashed == ["memory.svg"] and ">estimate<" in (tmp_path / "report" / "memory.svg").read_text()
    with (tmp_path / "report" / "values.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["step"]) for row in rows] == [
        (str(rank), str(step)) for rank in range(writer.num_ranks) for step in range(1, 301)
    ]
    assert float(rows[0]["max_memory"]) > 15 and {"tgs", "grad_norm", "lr"} < set(rows[0])


def read_png(data):
    """The picture, every byte of it decoded."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return picture.convert("RGBA")


@draws_png
def test_a_png_shows_curve_and_labels():
    line = ListSeries([float(value) for value in range(100)])
    drawn = read_png(draw_png(draw_svg(Plot("loss", [Curve("train", line)], (0, 99)))))
    colours = {pixel[:3] for _, pixel in drawn.getcolors(maxcolors=2**24) if pixel[3] == 255}
    assert drawn.size == (ZOOM * WIDTH, ZOOM * HEIGHT) and (0x2F, 0x7F, 0xD6) in colours
    heading = drawn.crop((0, 0, drawn.width, 36))  # text alone
    assert (0x80, 0x80, 0x80, 255) in {pixel for _, pixel in heading.getcolors(maxcolors=2**24)}


@draws_png
def test_hostile_and_wide_strings_do_not_break_a_png():
    line = ListSeries([1.0, 2.0])
    for text in ("训练损失", "".join(STRINGS)):
        plot = Plot(text, [Curve(text, line)], (0, 1), unit=text, markers=[Marker(0.5, text)])
        assert read_png(draw_png(draw_svg(plot))).size == (ZOOM * WIDTH, ZOOM * HEIGHT)


@pytest.mark.parametrize(
    ("missing", "message", "hint"),
    [
        ("resvg", "need the package resvg-py", 'pip install "xtuner[png]"'),
        ("fonts", "need a font", "fonts-dejavu-core"),
    ],
)
def test_without_what_draws_them_there_are_svgs_and_a_hint(
    tmp_path, capsys, monkeypatch, no_memory, missing, message, hint
):
    if missing == "resvg":
        monkeypatch.setitem(sys.modules, "resvg_py", None)  # as if it were not installed
    else:
        monkeypatch.setattr(png_plot, "_WITH_TEXT", png_plot._WITH_TEXT.replace(FONTS, "a font that nobody has"))
    healthy_run(tmp_path / "work", num_steps=5)
    out, err = report_by_command(tmp_path, capsys, monkeypatch)
    assert message in err and hint in err and out == f"{tmp_path / 'r' / 'report.md'}\n"
    assert (tmp_path / "r" / "loss.svg").exists() and not list((tmp_path / "r").glob("*.png"))
    with pytest.raises(EnvironmentFault, match=message):
        draw_png("<svg/>")


@pytest.fixture
def no_memory():
    """What was found out about this machine counts before and after no longer."""
    why_no_png.cache_clear()
    yield
    why_no_png.cache_clear()


def report_by_command(tmp_path, capsys, monkeypatch):
    """What `xtuner monitor --report` says on stdout and stderr."""
    arguments = ["monitor", str(tmp_path / "work"), "--report", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", ["xtuner", *arguments])
    with pytest.raises(SystemExit) as left:
        run(arguments)
    assert not left.value.code
    return capsys.readouterr()


def test_no_spike_is_lost_and_what_is_no_number_is_marked():
    values = [1.0] * 100_000
    values[54_321] = 9.0
    values[70_000] = float("nan")
    line = ListSeries(values)
    svg = draw_svg(Plot("loss", [Curve("train", line)], (0, len(values) - 1), best=None))
    points = places(svg)
    assert min(y for _, y in points) < 0.3 * HEIGHT < 0.7 * HEIGHT < max(y for _, y in points)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert svg.count("✗") == 1 and "nan" not in svg


@pytest.mark.parametrize("values", [[], [float("nan")] * 3, [0.0, -1.0]])
def test_nothing_to_show_is_said(values):
    line = ListSeries(values)
    svg = draw_svg(Plot("loss", [Curve("train", line)], shared_view([line]) or (0, 1), is_log=True))
    ElementTree.fromstring(svg)
    assert ("no values" in svg) == (values != [0.0, -1.0])


def test_hostile_strings_are_text_in_pictures_and_on_the_page(tmp_path):
    line = ListSeries([1.0, 2.0, 3.0])
    for text in STRINGS:
        svg = draw_svg(Plot(text, [Curve(text, line)], (0, 2), unit=text, markers=[Marker(1, text)]))
        ElementTree.fromstring(svg)
        assert not CONTROLS & set(svg.replace("\n", "").replace("\t", ""))
    writer = RunWriter(tmp_path / "work")
    writer.add_steps(5)
    texts = [text.encode("utf-8", "backslashreplace").decode() for text in STRINGS]
    writer.write_record(model=texts[0], dataset=texts, command=texts)
    page = report_newest(tmp_path / "work", tmp_path / "report").read_text()
    assert not CONTROLS & set(page.replace("\n", ""))
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", page)
    assert all(re.fullmatch(r"[\w-]+\.(svg|csv)", link) for link in links) and "<" not in page


@draws_png
def test_the_command_says_where_the_page_is_and_never_writes_into_the_run(tmp_path, capsys, monkeypatch):
    writer = healthy_run(tmp_path / "work", num_steps=5)
    out, err = report_by_command(tmp_path, capsys, monkeypatch)
    assert out == f"{tmp_path / 'r' / 'report.md'}\n" and err == ""
    with pytest.raises(UsageError, match="only read"):
        report_newest(tmp_path / "work", writer.run.path / "report")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        report_newest(tmp_path / "work", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no runs yet"):
        report_newest(tmp_path / "empty", tmp_path / "r")


@draws_png
def test_a_key_of_the_dashboard_writes_it(tmp_path, monkeypatch):
    writer = healthy_run(tmp_path / "work")
    monkeypatch.chdir(tmp_path)

    async def steps(screen):
        await screen.press("e")
        await screen.until_shown("written: ")
        directory = tmp_path / f"xtuner-report-{writer.run.name}"
        assert (directory / "report.md").exists() and (directory / "loss.png").exists()

    drive(steps, tmp_path / "work", (200, 60))
