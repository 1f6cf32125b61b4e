"""What all tiers share: no network, tiny models built once a session, helpers to run real processes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LANGUAGE"] = "en"  # whatever the one who runs them speaks
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
# A busy machine is slow, and that is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache and keys are not touched, by this process or by those it starts; made anew for each session."""
    directory = tmp_path_factory.mktemp("xdg-cache")
    os.environ["XDG_CACHE_HOME"] = str(directory)
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("xdg-config"))
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("qwen3")` is a model directory; the same arguments give the same directory."""
    import tiny_models

    root = tmp_path_factory.mktemp("models")

    def make(architecture: str, **options: object) -> Path:
        directory = root / "-".join([architecture, *map(str, options.values())])
        return directory if directory.exists() else tiny_models.make_model(directory, architecture, **options)

    return make


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 chats of one to three turns."""
    import tiny_models

    return tiny_models.make_chats(tmp_path_factory.mktemp("data") / "chats.jsonl")
