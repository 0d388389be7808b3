"""docs/numerics.md shows the definitions that hold."""

from .definitions import PAGE, page


def test_the_page_has_the_docstrings_of_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m parity_tests.architecture.definitions"
