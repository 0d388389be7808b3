"""Trackers of others: TensorBoard, Weights & Biases, MLflow, trackio and Aim, each through its own library."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from crosstrain.trackers.base import Value, load


class TensorBoard:
    """Event files, by tensorboardX. What TensorBoard shows of steps that a resumed run takes again is the second time.

    Args:
        folder: of the run; made when it is not there.

    Raises:
        CrosstrainError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        self._library = load("tensorboardX", "ct.trackers.TensorBoard", "tensorboard")
        self._folder = Path(folder)

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        # Without a suffix, a second file of the same second would replace the first.
        suffix = f".{time.time_ns()}"
        self._writer = self._library.SummaryWriter(str(self._folder), purge_step=step + 1, filename_suffix=suffix)
        rows = [f"| {name} | {value} |" for name, value in config.items()]
        self._writer.add_text("config", "\n".join(["| name | value |", "|---|---|", *rows]), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, error: BaseException | None) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """Weights & Biases. It ignores steps that it has already, so a resumed run does not repeat them.

    Args:
        project: see `wandb.init`.
        name: of the run, for people.
        id: of the run, for machines; give the same one to a run that is resumed. By default a new one.
        folder: where local files go.
        mode: `online`, `offline` (`wandb sync` sends the files later) or `disabled`.

    Raises:
        CrosstrainError: wandb is not installed.
    """

    def __init__(
        self,
        project: str,
        *,
        name: str | None = None,
        id: str | None = None,
        folder: Path | str | None = None,
        mode: Literal["online", "offline", "disabled"] = "online",
    ) -> None:
        self._library = load("wandb", "ct.trackers.WandB", "wandb")
        self._options = {"project": project, "name": name, "dir": folder and str(folder), "mode": mode}
        self.id = id

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        self._run = self._library.init(**self._options, id=self.id, resume="allow", config=dict(config))
        self.id = self._run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def finish(self, error: BaseException | None) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(error is not None))


class MLflow:
    """MLflow, by its client: nothing global is set. Steps that the run has already are not logged again.

    Args:
        experiment: its name; made when it is not there.
        tracking_uri: a server, or a database such as `sqlite:///runs.db`; None takes MLflow's own default.
        run_name: for people.
        run_id: of a run to go on with. By default a new one.

    Raises:
        CrosstrainError: mlflow is not installed.
    """

    def __init__(
        self,
        experiment: str,
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
    ) -> None:
        self._library = load("mlflow", "ct.trackers.MLflow", "mlflow")
        self._client = self._library.MlflowClient(tracking_uri)
        self._experiment, self._run_name, self.run_id = experiment, run_name, run_id

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        if self.run_id is None:
            found = self._client.get_experiment_by_name(self._experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
            self.run_id = self._client.create_run(experiment, run_name=self._run_name).info.run_id
            parameters = [self._library.entities.Param(name, str(value)) for name, value in config.items()]
            for first in range(0, len(parameters), 100):  # as many as a call may have
                self._client.log_batch(self.run_id, params=parameters[first : first + 100])
        self._client.update_run(self.run_id, status="RUNNING")
        self._last: dict[str, int] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        new = [name for name in values if step > self._last_step(name)]
        metrics = [self._library.entities.Metric(name, float(values[name]), now, step) for name in new]
        self._client.log_batch(self.run_id, metrics=metrics)
        self._last |= dict.fromkeys(new, step)

    def finish(self, error: BaseException | None) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self.run_id, "FAILED" if error else "FINISHED")

    def _last_step(self, name: str) -> int:
        if name not in self._last:
            history = self._client.get_metric_history(self.run_id, name)
            self._last[name] = max((each.step for each in history), default=-1)
        return self._last[name]


class Trackio:
    """trackio. Steps that a resumed run takes again are there twice.

    Args:
        project: see `trackio.init`.
        name: of the run; give the same one to a run that is resumed. By default a new one.
        space_id: a Space that shows it; None keeps it on this machine.

    Raises:
        CrosstrainError: trackio is not installed.
    """

    def __init__(self, project: str, *, name: str | None = None, space_id: str | None = None) -> None:
        self._library = load("trackio", "ct.trackers.Trackio", "trackio")
        self._options: dict[str, Any] = {"project": project, "space_id": space_id, "embed": False}
        self.name = name

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        self._run = self._library.init(**self._options, name=self.name, resume="allow", config=dict(config))
        self.name = self._run.name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def finish(self, error: BaseException | None) -> None:
        """See `Tracker`."""
        self._run.finish()


class Aim:
    """Aim. Of steps that a resumed run takes again it keeps the second values.

    Args:
        repo: a folder, or a server such as `aim://host:53800`; None takes Aim's own default.
        experiment: a name that several runs share.
        name: of the run, for people.
        run_hash: of a run to go on with, also one that was killed. By default a new one.

    Raises:
        CrosstrainError: aim is not installed.
    """

    def __init__(
        self,
        repo: Path | str | None = None,
        *,
        experiment: str | None = None,
        name: str | None = None,
        run_hash: str | None = None,
    ) -> None:
        self._library = load("aim", "ct.trackers.Aim", "aim")
        self._options: dict[str, Any] = {"repo": repo and str(repo), "experiment": experiment}
        self._options |= {"system_tracking_interval": None, "capture_terminal_logs": False}
        self._name, self.run_hash = name, run_hash

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """See `Tracker`."""
        known = self.run_hash is not None
        self._run = self._library.Run(self.run_hash, **self._options, force_resume=known)
        self.run_hash = self._run.hash
        if self._name is not None:
            self._run.name = self._name
        self._run["config"] = dict(config)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        epoch = values.get("epoch")
        for name, value in values.items():
            self._run.track(float(value), name=name, step=step, epoch=None if epoch is None else int(epoch))

    def finish(self, error: BaseException | None) -> None:
        """See `Tracker`."""
        if error is None:
            self._run.report_successful_finish()
        self._run.close()
        del self._run  # Aim holds its files until the run is gone
