"""The command `crosstrain`."""

import sys

import tyro
from rich.console import Console

from crosstrain.demo import demo
from crosstrain.environment import env
from crosstrain.errors import CrosstrainError
from crosstrain.parity.command import parity


def main() -> None:
    """Runs a subcommand; an error that crosstrain expects is one line, not a traceback."""
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            {"demo": demo, "env": env, "parity": parity},
            prog="crosstrain",
            description="One training interface, two native engines, and a proof that they agree.",
        )
    except CrosstrainError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        status = 2
    sys.exit(status)
