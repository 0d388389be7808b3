"""Progress on the terminal: loss, learning rate, examples/s and time left. Quiet elsewhere."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from crosstrain.callbacks import Callback, Record, Run


class _Values(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("values", ""), style="cyan")


class ProgressBar(Callback):
    """A rich progress bar. Nothing is printed when the output is no terminal or the process is not the main one.

    Args:
        title: what stands before the bar.
        console: where to draw; by default the standard error output.
    """

    def __init__(self, title: str = "train", console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._evaluation = ""

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        if not (run.is_main_process and self._console.is_terminal):
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            _Values(),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
        )
        self._progress.start()
        self._task = self._progress.add_task(self._title, total=run.total_steps)

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        if self._progress is None:
            return
        loss, rate, speed = (record.values[name] for name in ("loss", "learning_rate", "examples_per_second"))
        values = f"loss {loss:.4f}  lr {rate:.2e}  {speed:,.0f} examples/s"
        self._progress.update(self._task, completed=run.step, values=f"{values}{self._evaluation}")

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in record.values.items())
        self._evaluation = f"  [eval {shown}]"

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        if self._progress is not None:
            self._progress.update(self._task, completed=run.step)
            self._progress.stop()
            self._progress = None
