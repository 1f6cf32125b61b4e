"""Which Hub is asked, with which token, for which repository."""

import importlib.util
from pathlib import Path

import pytest
from hub_server import TOKEN

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.hub.cache_layout import hub_cache
from xtuner.hub.hub_client import DEFAULT_ENDPOINT, Endpoint, HubClient, choose_endpoint, connect
from xtuner.hub.hub_repo import parse_repo
from xtuner.hub.tqdm_bridge import counting_bar


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    from huggingface_hub import constants

    for name in ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


def test_endpoint_by_default_by_variable_by_mirror_and_by_option(monkeypatch):
    assert choose_endpoint() == Endpoint(DEFAULT_ENDPOINT) and choose_endpoint().is_default
    assert choose_endpoint(mirror="hf-mirror") == Endpoint("https://hf-mirror.com", "--mirror hf-mirror")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    assert choose_endpoint() == Endpoint("https://hub.example", "HF_ENDPOINT")
    assert choose_endpoint("http://10.0.0.1:8080/hf/") == Endpoint("http://10.0.0.1:8080/hf", "--endpoint")


@pytest.mark.parametrize(
    "text", ["hf-mirror.com", "ftp://x", "https://", "https://x:port", "https://[", "", "https://x?a=1"]
)
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="is not the address of a Hub"):
        choose_endpoint(text)


def test_an_address_without_scheme_is_completed():
    with pytest.raises(UsageError) as error:
        choose_endpoint("hf-mirror.com")
    assert error.value.hint == "did you mean https://hf-mirror.com?"


def test_a_secret_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match="holds a name or a password") as error:
        choose_endpoint(f"https://user:{TOKEN}@hub.example")
    assert TOKEN not in f"{error.value} {error.value.hint}"


def test_unknown_mirror_and_two_names_for_one_thing():
    with pytest.raises(UsageError, match="no mirror 'hf'") as error:
        choose_endpoint(mirror="hf")
    assert "hf-mirror (https://hf-mirror.com)" in error.value.hint
    with pytest.raises(UsageError, match="name the same thing"):
        choose_endpoint("https://x.example", "hf-mirror")


def test_token_of_a_file_and_of_the_environment(monkeypatch, tmp_path):
    assert connect(choose_endpoint()).token is None and connect(choose_endpoint()).token_argument is False
    monkeypatch.setenv("HF_TOKEN", "hf_fromTheEnvironment")
    assert connect(choose_endpoint()).token == "hf_fromTheEnvironment"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    client = connect(choose_endpoint(), tmp_path / "token")
    assert client.token == TOKEN and TOKEN not in repr(client)
    assert client.redact(f"a {TOKEN} b") == "a *** b"


def test_no_token_over_an_open_line(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert connect(Endpoint("http://hub.example")).token is None
    assert connect(Endpoint("http://127.0.0.1:1")).token == TOKEN
    assert connect(Endpoint("https://hub.example")).token == TOKEN


@pytest.mark.parametrize("content", [b"", b"\n", f"{TOKEN}\nmore".encode(), b"\xff\xfe", b"two words"])
def test_token_file_that_holds_no_token(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="--token-file") as error:
        connect(choose_endpoint(), tmp_path / "token")
    assert TOKEN not in str(error.value)


def test_token_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        connect(choose_endpoint(), tmp_path / "token")


def test_offline_by_the_environment(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE forbids the network") as error:
        connect(choose_endpoint())
    assert error.value.hint == "unset HF_HUB_OFFLINE"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-8B", ("Qwen/Qwen3-8B", "main")),
        (" Qwen/Qwen3-8B\n", ("Qwen/Qwen3-8B", "main")),
        ("gpt2", ("gpt2", "main")),
        ("https://huggingface.co/Qwen/Qwen3-8B", ("Qwen/Qwen3-8B", "main")),
        ("https://hf-mirror.com/Qwen/Qwen3-8B/", ("Qwen/Qwen3-8B", "main")),
        ("https://huggingface.co/Qwen/Qwen3-8B/tree/v1.0", ("Qwen/Qwen3-8B", "v1.0")),
        ("https:/huggingface.co/Qwen/Qwen3-8B", ("Qwen/Qwen3-8B", "main")),  # as a path has it
        ("huggingface.co/Qwen/Qwen3-8B/tree/v1.0", ("Qwen/Qwen3-8B", "v1.0")),
        ("https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json", ("Qwen/Qwen3-8B", "main")),
    ],
)
def test_names_of_repositories(text, expected):
    assert parse_repo(text) == expected
    assert parse_repo(text, "refs/pr/1") == (expected[0], "refs/pr/1")


@pytest.mark.parametrize(
    "text", ["", "a/b/c", "../x", "./models/x", "/models/x", "datasets/x", "a--b", "org/na me", "\x1b[2J"]
)
def test_what_is_no_repository(text):
    with pytest.raises(UsageError, match="is not the name of a model on the Hub"):
        parse_repo(text)


@pytest.mark.parametrize("revision", ["../x", "a/../../b", "-rf", "a b"])
def test_what_is_no_revision(revision):
    with pytest.raises(UsageError, match="no branch, tag or commit"):
        parse_repo("org/name", revision)


def test_no_lock_of_processes_is_made_for_a_bar_that_shows_nothing(monkeypatch):
    """While a screen has stderr, the process that tracks such locks cannot be started."""
    from tqdm.std import TqdmDefaultWriteLock, tqdm

    monkeypatch.delattr(TqdmDefaultWriteLock, "mp_lock", raising=False)
    monkeypatch.delattr(tqdm, "_lock", raising=False)
    counted = []
    with counting_bar(counted.append)(total=3, name="huggingface_hub.xet_get") as bar:
        bar.update(2)
    assert counted == [2] and not hasattr(TqdmDefaultWriteLock, "mp_lock")
    tqdm(disable=True)  # the control
    assert hasattr(TqdmDefaultWriteLock, "mp_lock")


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg", "HF_HOME": "$HOME/hf"}, "~/hf/hub"),
        ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "~/old"}, "~/old"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, "/new"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, environment, cache):
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub_cache() == Path(cache).expanduser()
    spec = importlib.util.find_spec("huggingface_hub.constants")
    constants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(constants)
    assert str(hub_cache()) == constants.HF_HUB_CACHE


def test_a_client_asks_its_own_endpoint():
    api = HubClient(Endpoint("https://hub.example"), TOKEN).api()
    assert (api.endpoint, api.token) == ("https://hub.example", TOKEN)
