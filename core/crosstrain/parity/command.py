"""`crosstrain parity my_pair.py`: holds a user's port to the model it was ported from."""

from pathlib import Path

from crosstrain.parity.figure import draw_losses, to_svg
from crosstrain.parity.fixes import try_fixes
from crosstrain.parity.port import load_port
from crosstrain.parity.tables import report_console
from crosstrain.parity.verdict import compare
from crosstrain.parity.view import terminal, write_page


def parity(pair: Path, /, free_steps: int = 100, out: Path = Path("runs/parity")) -> int:
    """Compares a torch model and its JAX port, step by step, in float64, and says where they part first.

    Args:
        pair: a Python file that defines both models; see `help(crosstrain.parity.port)`.
        free_steps: steps that both run freely from the same weights.
        out: where parity.html is written.

    Returns:
        The exit status: 0 when both are the same algorithm, 1 when they are not, or cannot be matched.
    """
    console = report_console()
    port = load_port(pair)
    torch, jax, matching = port.sides()
    page = out / "parity.html"
    if not matching.complete:
        console.print(terminal(None, (), matching, None))
        console.print("The parameters could not be matched: give hints for those in capitals.", style="bold red")
        write_page(page, None, (), matching, None, "")
        return 1
    verdict = compare(torch, jax, total_steps=port.total_steps, free_steps=free_steps)
    fixes, fixed = try_fixes(torch, jax, verdict, total_steps=port.total_steps, free_steps=free_steps)
    console.print(terminal(verdict, fixes, matching, fixed))
    write_page(page, verdict, fixes, matching, fixed, to_svg(draw_losses(verdict)) if len(verdict.loss[0]) else "")
    console.print(f"wrote {page}")
    return 0 if verdict.same_algorithm else 1
