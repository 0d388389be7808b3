"""What `crosstrain launch` refuses, prints and reports, without starting anything."""

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from crosstrain import backends
from crosstrain.errors import BackendError, ConfigError
from crosstrain.launch import cluster, ports, printed, reports
from crosstrain.launch.command import Options, launch, with_separator
from crosstrain.launch.engine import Ended
from crosstrain.launch.spec import LaunchSpec, parse_hosts

SCRIPT = str(Path(__file__))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "processes must be at least 1, got processes=0"),
        ({"processes": 1.5}, "processes must be an integer, got processes=1.5"),
        ({"devices_per_process": -1}, "devices_per_process must be at least 1, got devices_per_process=-1"),
        ({"max_restarts": -1}, "max_restarts must be at least 0"),
        ({"grace_s": -1}, "grace_s must be seconds, 0 or more"),
        ({"grace_s": float("nan")}, "grace_s must be seconds, 0 or more"),
        ({"port": 70000}, r"port must be in \[1, 65535\], got port=70000"),
        ({"hosts": ("a", "b", "a")}, "hosts must be named once each, got a twice in hosts=a,b,a. .* use --processes"),
        ({"hosts": ("a:22",)}, "hosts must be names or addresses, without ports, got 'a:22'"),
        ({"hosts": ("a", "b"), "node_rank": 2}, r"node_rank must be in \[0, 2\), the number of hosts, got node_rank=2"),
        ({"node_rank": 1}, "Name all machines: --hosts a,b"),
        ({"script": "nowhere.py"}, "script must be a file that is there, got 'nowhere.py' in "),
        ({"script": str(Path(__file__).parent)}, "script must be a Python file, got the directory"),
        ({"script": "train.py x", "module": True}, "a module must be a dotted name"),
    ],
)
def test_specs_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LaunchSpec(**{"script": SCRIPT, **options})


@pytest.mark.parametrize("text", ["", "a,,b", ",", "a,"])
def test_hosts_with_gaps(text: str) -> None:
    with pytest.raises(ConfigError, match="hosts must be names separated by commas"):
        parse_hosts(text)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ((), {}, "a script must be given, got none"),
        ((SCRIPT,), {"test": True}, "--test must be given without a script"),
        ((SCRIPT,), {"nodes": 2}, "cluster and nodes must come with --dry-run"),
        ((SCRIPT,), {"dry_run": True, "nodes": 2}, "nodes must come with --cluster"),
        ((SCRIPT,), {"dry_run": True, "cluster": "slurm"}, "nodes must be given with --cluster slurm"),
        ((SCRIPT,), {"dry_run": True, "cluster": "slurm", "nodes": 0}, "nodes must be at least 1"),
        ((SCRIPT,), {"dry_run": True, "cluster": "tpu", "nodes": 2, "hosts": "a"}, "hosts must be left to the cluster"),
        (
            (SCRIPT,),
            {"dry_run": True, "cluster": "tpu", "nodes": 2, "backend": "torch"},
            "cluster must be one of slurm on the torch",
        ),
        ((SCRIPT,), {"hosts": "one.invalid,two.invalid"}, "node_rank must be given where this machine is not one of"),
        (
            (SCRIPT,),
            {"backend": "torch", "devices_per_process": 2},
            "devices_per_process must be 1 on the torch engine",
        ),
    ],
)
def test_commands_that_cannot_work(command: tuple[str, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launch(command, options=Options(**{"backend": "jax", **options}))


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(BackendError, match="backend must be one of jax, torch, got backend='tensorflow'"):
        launch((SCRIPT,), options=Options(backend="tensorflow"))


def test_a_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port must be free on the first host, got port={port}"):
            launch((SCRIPT,), options=Options(backend="jax", port=port))
    ports.require_free(port)


@pytest.mark.parametrize(
    ("given", "separated"),
    [
        (
            ["launch", "--backend", "jax", "t.py", "--backend", "x"],
            ["launch", "--backend", "jax", "--", "t.py", "--backend", "x"],
        ),
        (["launch", "--processes=2", "--test"], ["launch", "--processes=2", "--test"]),
        (["launch", "--dry-run", "--module", "a.b", "-h"], ["launch", "--dry-run", "--module", "--", "a.b", "-h"]),
        (["launch", "--dry_run", "t.py"], ["launch", "--dry_run", "--", "t.py"]),
        (["launch", "--", "t.py", "--x"], ["launch", "--", "t.py", "--x"]),
        (["launch", "-h"], ["launch", "-h"]),
        (["launch"], ["launch"]),
        (["env"], ["env"]),
    ],
)
def test_what_follows_the_script_is_the_scripts(given: list[str], separated: list[str]) -> None:
    assert with_separator(given) == separated


def spec(**options: Any) -> LaunchSpec:
    return LaunchSpec(script=SCRIPT, args=("--name", "two words"), **options)


def test_the_commands_of_two_hosts() -> None:
    lines = printed.commands(
        spec(hosts=("a", "b"), processes=2, max_restarts=1), backends.launcher("torch"), None, None
    ).splitlines()
    common = "crosstrain launch --backend torch --processes 2 --hosts a,b"
    assert lines[::2] == [f"# on {host}: node rank {rank} of 2, rendezvous a:29500" for rank, host in enumerate("ab")]
    end = f"--port 29500 --max-restarts 1 {SCRIPT} --name 'two words'"
    assert lines[1::2] == [f"{common} --node-rank {rank} {end}" for rank in range(2)]


def test_the_commands_of_slurm_start_one_task_per_jax_process_and_one_agent_per_node() -> None:
    jax = printed.commands(spec(processes=4), backends.launcher("jax"), "slurm", 2).splitlines()
    ours = f"{SCRIPT} --name 'two words'"
    srun = "srun --nodes=2 --ntasks-per-node={} --kill-on-bad-exit=1 crosstrain launch --backend {} {}"
    assert jax[1] == srun.format(4, "jax", ours)
    assert jax[3].startswith("sbatch --nodes=2 --ntasks-per-node=4 --signal=TERM@60 --requeue --wrap=")
    torch = printed.commands(spec(processes=4), backends.launcher("torch"), "slurm", 2).splitlines()
    assert torch[1] == srun.format(1, "torch", f"--processes 4 {ours}")


def test_the_commands_of_a_tpu_slice() -> None:
    lines = printed.commands(spec(), backends.launcher("jax"), "tpu", 2).splitlines()
    assert [line.partition(" --command=")[0].rpartition(" ")[2] for line in lines[1::2]] == [
        "--worker=all",
        "--worker=0",
        "--worker=1",
    ]
    gke = printed.commands(spec(), backends.launcher("jax"), "gke", 2)
    assert json.loads(gke.splitlines()[-1].removeprefix("command: ")) == [
        *("crosstrain", "launch", "--backend", "jax", SCRIPT, "--name", "two words")
    ]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[03-07,9],x", "n03"),
        ("n[1,3]", "n1"),
        ("a-b-[2-4].c,x", "a-b-2.c"),
        ("h5,n[1-2]", "h5"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, first: str) -> None:
    assert cluster.first_host(nodes) == first


def report(folder: Path, pid: int, text: str, time_s: float) -> None:
    (folder / f"failed-{pid}.json").write_text(json.dumps({"time_s": time_s, "index": pid % 10, "traceback": text}))


def test_the_first_failure_is_the_cause(tmp_path: Path) -> None:
    report(tmp_path, 100, "Traceback\nRuntimeError: peer is gone", 2.0)
    report(tmp_path, 101, "Traceback\nValueError: planted", 1.0)
    ended = [Ended(0, 100, 1), Ended(1, 101, 1), Ended(2, 102, -signal.SIGABRT)]
    assert reports.cause(tmp_path, ended) is ended[1]
    said = reports.describe(tmp_path, ended)
    assert said.startswith("process 0 (pid 100) also failed: RuntimeError: peer is gone")
    assert said.endswith("ValueError: planted")


def test_the_error_of_a_process_that_followed_is_one_line_also_where_more_stands_below_it(tmp_path: Path) -> None:
    frames = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    step()\n    ^^^^^^\n'
    report(tmp_path, 100, frames + "ValueError: peer is gone\n  since it failed\n-----\nJAX has removed frames", 2.0)
    report(tmp_path, 101, frames + "ValueError: planted", 1.0)
    said = reports.describe(tmp_path, [Ended(0, 100, 1), Ended(1, 101, 1)])
    assert said.startswith("process 0 (pid 100) also failed: ValueError: peer is gone\nprocess 1")


def test_a_process_that_was_killed_comes_before_what_its_siblings_say_of_it(tmp_path: Path) -> None:
    report(tmp_path, 100, "Traceback\nRuntimeError: peer is gone", 1.0)
    ended = [Ended(0, 100, 1), Ended(1, 101, -signal.SIGKILL)]
    assert reports.exit_code(reports.cause(tmp_path, ended)) == 137
    assert "process 1 (pid 101) was killed by SIGKILL" in reports.describe(tmp_path, ended).splitlines()[-1]
