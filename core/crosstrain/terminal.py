"""Where commands print: names and paths appear as they are, brackets and colons too, which rich reads as markup."""

from rich.console import Console


def plain_console(*, width: int | None = None, stderr: bool = False) -> Console:
    """A console of rich that prints text unchanged.

    Args:
        width: in characters; by default that of the terminal.
        stderr: the standard error output, instead of the standard one.
    """
    return Console(width=width, stderr=stderr, markup=False, emoji=False)
