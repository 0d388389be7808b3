"""Whole jobs: a script that says nothing about processes trains in several, on several hosts, and after a kill."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests import cards

from . import starting

TRAIN = starting.SCRIPTS / "train.py"
STEPS = 20


def log(folder: Path) -> list[tuple[int, float]]:
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [(int(step), float.fromhex(loss)) for step, loss in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of one process that was not launched."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, TRAIN, "torch", folder], check=True, timeout=starting.TIMEOUT_S)
    return dict(log(folder))


def check(folder: Path, alone: dict[int, float]) -> None:
    """Every step that was ever taken has the loss of one process, and none is missing; the mean is summed otherwise."""
    found = log(folder)
    assert {step for step, _ in found} == set(range(1, STEPS + 1))
    for step, loss in found:
        assert loss == pytest.approx(alone[step], rel=1e-10, abs=0)


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.slow), "torch"])
def test_a_killed_process_recovers_from_the_checkpoint(backend: str, alone: dict[int, float], tmp_path: Path) -> None:
    launch = ["launch", "--backend", backend, "--processes", 2, "--max-restarts", 1]
    code, output = starting.crosstrain(*launch, TRAIN, backend, tmp_path, 8)
    assert code == 0, output
    assert (tmp_path / "killed").exists()
    assert [step for step, _ in log(tmp_path)].count(1) == 1, "it went on from a checkpoint"
    check(tmp_path, alone)
    assert all(f"process {index} of 2, 2 devices" in output for index in range(2))
    card = cards.read((tmp_path / "card" / "README.md").read_text())
    assert card.settings("Engine, machine and time")["processes"] == "2"
    assert card.settings("Training")["mesh"] == "data 2"
    assert "The run was resumed at optimizer step " in card.text
    assert [row[1] for row in card.tables["Epochs"][1:]][-1] == f"{STEPS}"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_card_of_others_is_refused_by_every_process(backend: str, tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("# Mine\n")
    launch = ["launch", "--backend", backend, "--processes", 2]
    code, output = starting.crosstrain(*launch, TRAIN, backend, tmp_path)
    assert code != 0
    assert "path must be free or a card that crosstrain wrote, got path=" in output
    assert not (tmp_path / "log").exists()
    assert (tmp_path / "card" / "README.md").read_text() == "# Mine\n"


def commands(printed: str) -> list[list[str]]:
    """What the printed lines say to run, with this interpreter's crosstrain."""
    lines = [shlex.split(line) for line in printed.splitlines() if not line.startswith("#")]
    assert all(line[0] == "crosstrain" for line in lines)
    return [line[1:] for line in lines]


HOSTS = [("jax", 1, 2), ("torch", 2, None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "processes", "devices"),
    HOSTS,
    ids=["jax", "torch"],
)
def test_the_printed_commands_of_two_hosts_are_a_job(
    backend: str, processes: int, devices: int | None, alone: dict[int, float], tmp_path: Path
) -> None:
    """Both hosts are this machine, by two of its addresses."""
    options = ["--backend", backend, "--processes", processes, "--hosts", "127.0.0.1,127.0.0.2", "--port", 29617]
    options += ["--devices-per-process", devices] if devices else []
    code, printed = starting.crosstrain("launch", "--dry-run", *options, TRAIN, backend, tmp_path)
    assert code == 0, printed
    assert re.findall("# on (.*)", printed) == [
        f"127.0.0.{host + 1}: node rank {host} of 2, rendezvous 127.0.0.1:29617" for host in range(2)
    ]
    hosts = [starting.start(*command) for command in commands(printed)]
    ends = [starting.finish(host) for host in hosts]
    assert [code for code, _ in ends] == [0, 0], ends
    count = 2 * processes
    for host, (_, output) in enumerate(ends):
        for local in range(processes):
            index = host * processes + local
            assert f"process {index} of {count}, {count * (devices or 1)} devices" in output
    check(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_tasks_of_slurm_find_each_other(backend: str, alone: dict[int, float], tmp_path: Path) -> None:
    """Each task has the variables that srun sets on two nodes of one task; both nodes are this machine."""
    tasks = []
    for rank in range(2):
        env = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        env |= {"SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": str(rank)}
        env |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"}
        tasks.append(starting.start("launch", "--backend", backend, TRAIN, backend, tmp_path, env=env))
    ends = [starting.finish(task) for task in tasks]
    assert [code for code, _ in ends] == [0, 0], ends
    assert all(f"process {rank} of 2" in ends[rank][1] for rank in range(2))
    check(tmp_path, alone)


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_the_check_of_a_machine_that_works(backend: str) -> None:
    code, output = starting.crosstrain("launch", "--test", "--backend", backend, "--processes", 2)
    assert code == 0, output
    assert "Everything works." in output
    assert f"{backend}: 2 devices, 2 processes" in output


@pytest.mark.slow
def test_an_accelerator_of_another_engine_than_the_launched_one_is_refused(tmp_path: Path) -> None:
    code, output = starting.crosstrain("launch", "--backend", "torch", "--processes", 2, TRAIN, "jax", tmp_path)
    assert code == 1
    last = output.rstrip().splitlines()[-1]
    assert "backend must be 'torch', the engine this process was launched for, got backend='jax'" in last
    assert last.endswith("Use crosstrain launch --backend jax.")
