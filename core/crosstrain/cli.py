"""The command `crosstrain`."""

import sys

from tyro.extras import SubcommandApp

from crosstrain.checkpoint.command import convert, diff, inspect, verify
from crosstrain.demo import demo
from crosstrain.environment import env
from crosstrain.errors import CrosstrainError
from crosstrain.launch.command import launch, with_separator
from crosstrain.parity.command import parity
from crosstrain.planning.command import plan
from crosstrain.planning.estimate_command import estimate_memory
from crosstrain.terminal import plain_console
from crosstrain.training.command import lr_find


def main() -> None:
    """Runs a subcommand; an error that crosstrain expects is one line, not a traceback."""
    checkpoint = SubcommandApp()
    for each in (inspect, verify, diff, convert):
        checkpoint.command(each)
    app = SubcommandApp()
    for command in (demo, env, estimate_memory, launch, lr_find, parity, plan):
        app.command(command)
    app.command(checkpoint, name="checkpoint", help="Looks into checkpoints, compares and converts them.")
    try:
        status = app.cli(
            prog="crosstrain",
            description="One training interface, two native engines, and a proof that they agree.",
            args=with_separator(sys.argv[1:]),
        )
    except CrosstrainError as error:
        plain_console(stderr=True).print(f"error: {error}", style="red", highlight=False)
        status = 2
    sys.exit(status)
