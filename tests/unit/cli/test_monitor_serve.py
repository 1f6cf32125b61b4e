"""`xtuner monitor --serve` where it cannot begin; tests/e2e/test_served_dashboard.py has the rest."""

import socket
import sys

import pytest


def test_a_port_that_is_taken_and_a_path_that_leads_nowhere(xtuner, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = xtuner("monitor", tmp_path, "--serve", "--serve-port", port)
    assert done.exit_code == 5 and done.stdout == ""
    assert f"port {port} of 127.0.0.1 cannot be served on: Address already in use" in done.stderr
    assert "hint: leave out --serve-port" in done.stderr
    done = xtuner("monitor", tmp_path / "nowhere", "--serve")
    assert done.exit_code == 2 and "nowhere" in done.stderr
    done = xtuner("monitor", tmp_path, "--serve", "--compare", tmp_path)
    assert done.exit_code == 2 and "holds no runs yet" in done.stderr
    for port in ("65536", "-1", "http", "9" * 5000):
        done = xtuner("monitor", tmp_path, "--serve", "--serve-port", port)
        assert done.exit_code == 2 and "is no port" in done.stderr


@pytest.mark.parametrize("missing", ["textual_serve", "aiohttp"])
def test_without_the_extra_it_says_how_to_get_it(xtuner, tmp_path, monkeypatch, missing):
    monkeypatch.delitem(sys.modules, "xtuner.tui.web.server", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    done = xtuner("monitor", tmp_path, "--serve")
    assert done.exit_code == 5 and "--serve needs the package textual-serve" in done.stderr
    assert 'hint: pip install "xtuner[web]"' in done.stderr
