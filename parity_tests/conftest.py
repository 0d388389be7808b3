"""The engines as a parameter. `--backends jax` restricts a run to one, so that the other need not be importable."""

from collections.abc import Callable

import pytest

import crosstrain as ct

ENGINES = ("jax", "torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backends", default=",".join(ENGINES), help="engines to test, separated by commas")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = any("backend" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not own:
        metafunc.parametrize("backend", metafunc.config.getoption("--backends").split(","))


@pytest.fixture
def make(backend: str) -> Callable[..., ct.Accelerator]:
    """Makes an accelerator of the engine under test; float64 unless the test asks for something else."""
    return lambda **options: ct.Accelerator(backend, **{"precision": "fp64", **options})
