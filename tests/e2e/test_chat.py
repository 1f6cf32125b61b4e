"""`xtuner chat` in a real pseudo-terminal: keys in, replies as they come, Ctrl-C and Ctrl-D."""

import itertools

import pytest
import scripted_models
import tiny_models
from commands import run
from terminals import Terminal

REPLY = scripted_models.CHINESE
# Before and behind each line that it reads, readline switches the marks around pasted text on and off.
_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
_PROMPT = _PASTE_ON + "> "


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return scripted_models.make_scripted_model(tmp_path_factory.mktemp("model") / "chatty", REPLY)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "endless"
    return scripted_models.make_scripted_model(directory, REPLY, is_endless=True, context_length=10**6)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    said, tags = f"<think>go</think>{REPLY}", ("<think>", "</think>")
    return scripted_models.make_scripted_model(tmp_path_factory.mktemp("model") / "thinker", said, tags=tags)


def _started(*arguments, **environment):
    terminal = Terminal("chat", *arguments, **environment)
    terminal.read_until("Ctrl-D leaves")
    terminal.read_until(_PROMPT)
    return terminal


def _ask(terminal, keys):
    """Type and read up to the next prompt; what was shown, without the echo of the keys' last line."""
    terminal.type(keys + "\r")
    terminal.read_until(keys.split("\r")[-1])
    shown = terminal.read_until(_PROMPT).removesuffix(_PROMPT)
    return shown.replace("\r", "").replace(_PASTE_OFF, "").strip("\n")


def test_questions_and_replies(model):
    with _started(model) as terminal:
        assert _ask(terminal, "Who are you?") == REPLY
        assert _ask(terminal, "你是谁？") == REPLY
        assert _ask(terminal, "/nothing") == "(no command /nothing; /help lists them)"
        assert _ask(terminal, "/usr/bin is a path") == REPLY
        assert "/system TEXT" in _ask(terminal, "/help")
        assert _ask(terminal, "/undo") == "(taken back: /usr/bin is a path)"
        assert _ask(terminal, "/undo") == "(taken back: 你是谁？)"
        assert _ask(terminal, "/reset") == "(all forgotten)"
        assert _ask(terminal, "/undo") == "(nothing to take back)"
        terminal.type("/exit\r")
        code, shown = terminal.read_to_end()
    assert code == 0 and "Traceback" not in shown


def test_a_reply_is_shown_while_it_comes_and_ctrl_c_keeps_it(endless):
    """The model never ends: only what is shown at once can be seen."""
    with _started(endless, "--max-new-tokens", 10**6) as terminal:
        terminal.type("Go\r")
        shown = terminal.read_until(REPLY * 20)
        terminal.type("typed ahead")
        shown += terminal.read_until(REPLY)
        terminal.type("\x03")
        shown += terminal.read_until("(stopped)")
        assert "\ufffd" not in shown and "^C" not in shown and "typed" not in shown
        said = shown[shown.index(REPLY) :].splitlines()[0].removesuffix("\r")
        assert said == "".join(itertools.islice(itertools.cycle(REPLY), len(said))) and len(said) >= 21 * len(REPLY)
        terminal.read_until(_PROMPT)
        assert _ask(terminal, "/undo") == "(taken back: Go)"
        terminal.type("\x04")
        assert terminal.read_to_end()[0] == 0


def test_several_lines_are_one_question(model):
    with _started(model) as terminal:
        terminal.type("one \\\r")
        terminal.read_until("… ")
        assert _ask(terminal, "two") == REPLY
        assert _ask(terminal, "/undo") == "(taken back: one two)"
        terminal.type('"""first\r')
        terminal.read_until("… ")
        terminal.type("/exit\r")
        terminal.read_until("… ")
        assert _ask(terminal, 'last"""') == REPLY
        assert _ask(terminal, "/undo") == "(taken back: first /exit last)"
        terminal.type("\x1b[200~pasted one\rpasted two\x1b[201~")
        assert _ask(terminal, "!") == REPLY
        assert _ask(terminal, "/undo") == "(taken back: pasted one pasted two!)"


def test_ctrl_c_at_the_prompt_asks_nothing_and_ctrl_d_leaves(model):
    with _started(model) as terminal:
        terminal.type("half a quest")
        terminal.read_until("half a quest")
        terminal.wait_until_asleep()
        terminal.type("\x03")
        terminal.read_until("(nothing asked; Ctrl-D or /exit leaves)")
        terminal.read_until(_PROMPT)
        assert _ask(terminal, "/undo") == "(nothing to take back)"
        terminal.type("\x04")
        assert terminal.read_to_end()[0] == 0


def test_system_text_and_a_full_context(tmp_path):
    directory = scripted_models.make_scripted_model(tmp_path / "short", REPLY, context_length=90)
    with _started(directory, "--max-new-tokens", 16) as terminal:
        dropped = "the oldest turn was dropped, to fit the model's context of 90 tokens"
        question = "How many minutes are in an hour, and how many hours are in a week?"
        assert _ask(terminal, question) == REPLY
        assert dropped in _ask(terminal, question)
        assert _ask(terminal, "/reset") == "(all forgotten)"
        assert _ask(terminal, question) == REPLY  # nothing to drop any more
        assert _ask(terminal, "/system " + "Answer briefly. " * 9) == "(system text set)"
        too_long = _ask(terminal, question)
        assert "error" in too_long and "the model's context 90" in too_long
        assert dropped not in too_long and REPLY not in too_long
        assert _ask(terminal, "/system") == "(no system text)"
        assert _ask(terminal, "/undo") == f"(taken back: {question[:59]}…)"  # the one that could be asked


def test_reasoning_is_dim_where_there_is_colour(thinker):
    with _started(thinker) as terminal:
        assert _ask(terminal, "Hello").replace("\x1b[0m\x1b[2m", "") == f"\x1b[2m<think>go</think>\x1b[0m{REPLY}"
    with _started(thinker, NO_COLOR="1") as terminal:
        assert _ask(terminal, "Hello") == f"<think>go</think>{REPLY}"


def test_reasoning_that_the_prompt_has_opened_is_shown_with_its_tag(tmp_path):
    template = tiny_models.CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    said, tags = f"go</think>{REPLY}", ("<think>", "</think>")
    directory = scripted_models.make_scripted_model(tmp_path / "opened", said, template=template, tags=tags)
    with _started(directory, NO_COLOR="1") as terminal:
        assert _ask(terminal, "Hello") == f"<think>\ngo</think>{REPLY}"


def test_a_single_question_on_a_terminal_streams_and_ctrl_c_exits_with_130(thinker, endless):
    with Terminal("chat", thinker, "-m", "Hello", NO_COLOR="1") as terminal:
        code, shown = terminal.read_to_end()
    assert code == 0 and shown.replace("\r", "").endswith(f"\n<think>go</think>{REPLY}\n")
    with Terminal("chat", endless, "-m", "Hello", "--max-new-tokens", 10**6) as terminal:
        terminal.read_until(REPLY * 5)
        terminal.type("\x03")
        code, shown = terminal.read_to_end()
    assert code == 130 and "Traceback" not in shown


def test_a_terminal_is_no_place_for_json(model):
    with Terminal("chat", model, "--json") as terminal:
        code, shown = terminal.read_to_end()
    assert code == 2 and "--json needs a question" in shown


def test_the_model_of_a_run_replies(tiny_model, chats, tmp_path):
    """From training to talking, and the network is not asked for anything."""
    done = run(
        *("xtuner", "sft", "--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", tmp_path),
        *("--total-step", 2, "--pack-max-length", 512, "--nproc-per-node", 1),
    )
    assert done.returncode == 0, done.stderr
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    talked = run("xtuner", "chat", tmp_path, "-m", "What is 3 plus 4?", "--max-new-tokens", 8, env=offline)
    assert talked.returncode == 0 and talked.stderr.startswith("talking with ") and "hf-2\n" in talked.stderr
