"""Compiled programs that the second start of a script finds; torch's stand in torch_backend/tests/test_compiled.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import crosstrain as ct

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import jax
from jax import monitoring
events = []
monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/")[-1]))
from parity_tests.conformance.tasks import MLP, images, loss_fn, prepared
import crosstrain as ct
options = dict(compile_cache=eval({given!r}))
accelerator = ct.Accelerator("jax", **options)
accelerator.train_step(loss_fn)(prepared(accelerator, MLP), images(8))
print("found", events.count("cache_hits"), events.count("cache_misses"), jax.config.jax_compilation_cache_dir)
"""


def start(home: Path, given: str = "True", **settings: str) -> tuple[int, int, str]:
    """Hits, misses and the folder of one process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env = own | {"XDG_CACHE_HOME": str(home), **settings}
    script = SCRIPT.format(root=str(ROOT), given=given)
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    _, hits, misses, folder = result.stdout.strip().splitlines()[-1].split(maxsplit=3)
    return int(hits), int(misses), folder


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "crosstrain" / "jax"
    hits, misses, place = start(tmp_path)
    assert (hits, place) == (0, str(folder))
    assert misses > 0
    kept = sorted(each.name for each in folder.iterdir() if each.name.endswith("-cache"))
    again = start(tmp_path)
    assert again == (misses, 0, str(folder))
    assert sorted(each.name for each in folder.iterdir() if each.name.endswith("-cache")) == kept


@pytest.mark.slow
def test_users_decide_where_and_whether(tmp_path: Path) -> None:
    own, other = str(tmp_path / "own"), str(tmp_path / "other")
    assert start(tmp_path, JAX_COMPILATION_CACHE_DIR=own)[2] == own
    assert start(tmp_path, repr(other))[2] == str(Path(other) / "jax")
    start(tmp_path / "large", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1000")
    assert not list((tmp_path / "large").rglob("*-cache")), "what JAX was told to keep"
    nowhere = tmp_path / "nowhere"
    assert start(nowhere, "False")[1:] == (0, "None")
    assert not nowhere.exists()
    assert start(Path("/dev/null"))[1:] == (0, "None")  # which holds no folder


def test_something_else_is_refused() -> None:
    with pytest.raises(ct.ConfigError, match="compile_cache must be True, False or a folder, got compile_cache=3"):
        ct.Accelerator("jax", compile_cache=3)  # type: ignore[arg-type]
    with pytest.raises(ct.ConfigError, match="compile_cache must be a folder that can be written, got"):
        ct.Accelerator("jax", compile_cache="/dev/null")
