"""Keys of one's own: the file, what is wrong in it, and the dashboard with them."""

from pathlib import Path

import pytest
from monitor_runs import healthy_run
from monitor_screen import drive

from xtuner.tui.keymap import sign
from xtuner.tui.monitor import actions
from xtuner.user_config import keys_file

_DOCS = Path(__file__).parents[3] / "docs" / "monitor.md"


@pytest.fixture
def write_keys(tmp_path, monkeypatch):
    """`write_keys(text)` is what the user's file says of the dashboard."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def write(text):
        keys_file().parent.mkdir(parents=True, exist_ok=True)
        keys_file().write_bytes(text if isinstance(text, bytes) else text.encode())
        return actions.user_keys()

    return write


def test_names_stand_with_dots_in_tables_or_in_quotes(write_keys):
    mine = write_keys(
        '[monitor]\npause = ["p", "ctrl+up"]\noverview.smoother = ","\n"tab.logs" = "f5"\n'
        '[monitor.logs]\nsearch = "$"\n'
    )
    assert not mine.problems
    assert mine.keymap == {
        "pause": "p,ctrl+up",
        "overview.smoother": "comma",
        "tab.logs": "f5",
        "logs.search": "dollar_sign",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[monitor]\noverview.smother = "m"', "no action overview.smother; did you mean overview.smoother?"),
        ('[monitor]\nnothing_like_it = "m"', "no action nothing_like_it"),
        ("[monitor]\npause = 3", 'pause: a key, or a list of keys, is text, such as "f5"'),
        ("[monitor]\npause = []", "pause: a key, or a list of keys"),
        ('[monitor]\npause = "no_such_key"', "pause: there is no key no_such_key"),
        ('[monitor]\npause = "hyperspace+p"', "pause: there is no key hyperspace+p"),
        ('[monitor]\npause = "ctrl+c"', "pause: Ctrl+C cannot be given away"),
        ('[monitor]\npause = "m"\nhelp = "m"', "help: m is pause already; give one of them another key"),
        ('[monitor]\noverview.smoother = "w"', "overview.smoother: w is overview.window already"),
        ('[monitor]\nlogs.copy = "e"', "logs.copy: e is export already"),
        ('[monitor]\nranks.heat = "up"', "ranks.heat: ↑ is a key of ranks already"),
        ('[moniter]\npause = "p"', "moniter is no screen with keys; that is [monitor]"),
        ("monitor = 3", "monitor is no table"),
        ("[monitor", "cannot be read: "),
        (b"\xff\xfe", "cannot be read: "),
    ],
)
def test_what_is_wrong_is_told_and_left_out(write_keys, text, problem):
    mine = write_keys(text)
    assert any(problem in told for told in mine.problems) and len(mine.problems) == 1
    assert set(mine.keys) <= {"pause"} and len(mine.keys) == ("help" in problem)


def test_keys_that_change_places_or_are_not_heard_together_do_not_clash(write_keys):
    mine = write_keys('[monitor.overview]\nsmoother = "w"\nwindow = "s"\n[monitor.logs]\nlevel = "h"\n')
    assert not mine.problems and len(mine.keys) == 3


def test_a_directory_in_place_of_the_file(write_keys):
    keys_file().mkdir(parents=True)
    assert actions.user_keys().problems == ["cannot be read: Is a directory"]


def test_keys_have_the_names_that_people_call_them_by():
    called = {"shift+left": "Shift+←", "question_mark": "?", "S": "S", "f5": "F5", "escape": "Esc", "space": "space"}
    called |= {"plus": "+", "minus": "-", "slash": "/", "ctrl+c": "Ctrl+C", "pagedown": "PgDn", "end": "End"}
    assert {key: sign(key) for key in called} == called


def test_the_dashboard_hears_them_and_says_so_in_footer_and_help(write_keys, tmp_path):
    writer = healthy_run(tmp_path / "work", num_ranks=3)
    writer.add_steps(1, lambda rank, step: {"reduced_llm_loss": float("nan")})
    write_keys(
        '[monitor]\npause = "p"\noverview.smoother = "m"\noverview.band = "v"\ntab = { logs = "z", alerts = "j" }\n'
    )

    async def steps(screen):
        assert "p Pause" in screen.lines[-1] and "space" not in screen.lines[-1]
        await screen.until_shown("(j says more)")
        await screen.press("s")
        assert screen.pane.choice.weight == 0.9
        await screen.press("m")
        assert screen.pane.choice.weight == 0.97
        await screen.press("v")
        assert "rank 0 alone; v shows all ranks" in screen.text
        await screen.press("question_mark")
        assert "1 2 z j 5" in screen.text and "m S" in screen.text and "keys.toml" not in screen.text
        await screen.press("escape", "3")
        assert screen.tab == "overview"
        await screen.press("z")
        assert screen.tab == "logs"

    drive(steps, tmp_path / "work", (200, 60))


def test_the_dashboard_opens_whatever_stands_there_and_says_what_is_wrong(write_keys, tmp_path):
    healthy_run(tmp_path / "work")
    write_keys('[monitor]\npause = "p"\noverview.smother = "m"\nhelp = "p"\n"\\u001b]0;x\\u0007" = "k"\n')

    async def steps(screen):
        assert "keys.toml: there is no action overview.smother; did you mean" in screen.text
        assert "(and 2 more)" in screen.text
        await screen.press("question_mark")
        assert "help: p is pause already" in screen.text and "\\x1b]0;x\\x07" in screen.text
        await screen.press("escape", "p")
        assert "PAUSED" in screen.header

    drive(steps, tmp_path / "work", (200, 60))


def test_every_action_is_in_the_documentation():
    begin, end = "<!-- actions -->\n", "\n<!-- end of actions -->"
    written = _DOCS.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert written == actions.reference(), "put this there:\n" + actions.reference()
