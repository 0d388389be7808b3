"""`crosstrain parity my_pair.py`: holds a user's port to the model it was ported from."""

from pathlib import Path

from crosstrain.errors import require_folder
from crosstrain.parity.examine import examine
from crosstrain.parity.port import load_port
from crosstrain.parity.tables import report_console
from crosstrain.parity.view import terminal, write_page


def parity(
    pair: Path,
    /,
    free_steps: int = 100,
    low_precision: bool = True,
    seeds: int = 16,
    out: Path = Path("runs/parity"),
) -> int:
    """Compares a torch model and its JAX port, step by step, in float64, and says where they part first.

    Where float64 finds no difference, float32 and bfloat16 are compared with what rounding explains, and bugs are
    planted to say what this very run could not have seen.

    Args:
        pair: a Python file that defines both models; see `help(crosstrain.parity.port)`.
        free_steps: steps that both run freely from the same weights.
        low_precision: go on with float32, bfloat16 and planted bugs.
        seeds: runs with nudged rounding behind each envelope.
        out: where parity.html is written.

    Returns:
        The exit status: 0 when both are the same algorithm, 1 when they are not, or cannot be compared.
    """
    require_folder("out", out)
    console = report_console()
    report = examine(load_port(pair), free_steps=free_steps, low_precision=low_precision, seeds=seeds)
    console.print(terminal(report))
    page = out / "parity.html"
    write_page(page, report)
    console.print(f"wrote {page}")
    return 0 if report.same else 1
