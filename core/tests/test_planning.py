"""What follows from a measured step, and every way to ask wrongly."""

import math
from pathlib import Path

import pytest
import tyro

import crosstrain as ct
from crosstrain.planning import CHIPS, Collective, Measured, Memory, Report, Topology, load_job, sent_bytes, together
from crosstrain.planning.chips import GIB
from crosstrain.planning.command import parse_mesh, plan
from crosstrain.planning.sweep import candidates, sweep
from crosstrain.sharding import ParamPlan, ShardingPlan

SCRIPT = """
import numpy as np
import crosstrain as ct
config = ct.models.MLPConfig(in_features=4, hidden=(8,), out_features=2)
optimizer = ct.adamw(1e-3)
def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["image"]), batch["label"])
def batches(step):
    return {"image": np.zeros((8, 4)), "label": np.zeros(8, np.int64)}
"""


def collective(**changes: object) -> Collective:
    values = {"kind": "all-reduce", "axes": ("data",), "group_size": 8, "count": 1, "operand_bytes": 800.0}
    return Collective(**(values | changes))


def report(mesh: ct.MeshSpec, *, total: float = GIB, flops: float = 1e12, sent: float = 0.0) -> Report:
    plan = ShardingPlan(mesh=mesh.resolve(256), params={"w": ParamPlan(shape=(4,), logical=None, axes=((),))})
    given = sent * 8 / 14
    return Report(
        backend="jax",
        topology=Topology.parse("v5e:16x16"),
        measured=Measured(
            plan=plan,
            memory=Memory(state=total, outputs=0.0, temporaries=0.0),
            flops=flops,
            hbm_bytes=0.0,
            collectives=(collective(operand_bytes=given),),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("all-gather", 7),
        ("all-reduce", 2 * 7 / 8),
        ("reduce-scatter", 7 / 8),
        ("all-to-all", 7 / 8),
        ("collective-permute", 1),
        ("broadcast", 1),
    ],
)
def test_bytes_sent_on_a_ring(kind: str, share: float) -> None:
    assert collective(kind=kind).sent_bytes == 800 * share
    assert collective(kind=kind, group_size=1).sent_bytes == 0


def test_exchanges_of_one_kind_and_group_are_added_up() -> None:
    parts = [collective(), collective(count=3), collective(axes=("fsdp",)), collective(kind="all-gather")]
    whole = together(parts)
    assert [each.count for each in whole] == [1, 4, 1]
    assert sum(each.sent_bytes for each in whole) == sent_bytes(parts) == 3 * 1400 + 5600
    assert sent_bytes(parts, axis="fsdp") == 1400
    assert sent_bytes(parts, "all-gather") == 5600


def test_times_are_bytes_and_flops_at_the_chip_s_peaks() -> None:
    times = report(ct.MeshSpec(), flops=197e12, sent=50e9).times
    assert times is not None
    assert times.compute == 1.0
    assert math.isclose(times.communication, 0.5)
    assert times.overlapped == 1.0
    assert math.isclose(times.serial, 1.5)


def test_memory_is_held_against_the_chip() -> None:
    assert report(ct.MeshSpec(), total=15 * GIB).fits
    assert report(ct.MeshSpec(), total=16 * GIB).fits is False


def test_a_sweep_ranks_what_fits_by_time_then_what_does_not_by_memory() -> None:
    found = {
        "fsdp=256": {"total": 20 * GIB},
        "fsdp=128, tensor=2": {"sent": 1e12},
        "fsdp=64, tensor=4": {},
        "fsdp=32, tensor=8": {"total": 17 * GIB},
    }

    def plan(mesh: ct.MeshSpec) -> Report:
        if mesh.data == 256:
            raise ct.DataError("the batch is too small")
        return report(mesh, **found[mesh.describe()])

    ranked = [outcome.mesh for outcome in sweep(candidates(256), plan)]
    assert ranked == ["fsdp=64, tensor=4", "fsdp=128, tensor=2", "fsdp=32, tensor=8", "fsdp=256", "data=256"]


@pytest.mark.parametrize(("text", "chips"), [("v5e:16x16", 256), ("v5p:4x4x8", 128), ("cpu:8", 8)])
def test_topologies(text: str, chips: int) -> None:
    topology = Topology.parse(text)
    assert topology.chips == chips
    assert topology.name == text


@pytest.mark.parametrize("text", ["v5e", "v5e:", "v9:4x4", "v5e:16", "v5e:4x4x4", "v5p:4x4", "cpu:2x4", "v5e:0x4", ""])
def test_topologies_that_do_not_exist(text: str) -> None:
    with pytest.raises(ct.ConfigError, match="topology must"):
        Topology.parse(text)


def test_chips_are_plausible() -> None:
    """Within a factor of ten of each other: a slip of a unit would be a thousand."""
    for name in ("hbm_bytes", "flops_per_s", "hbm_bytes_per_s", "link_bytes_per_s"):
        values = [getattr(chip, name) for chip in CHIPS.values()]
        assert max(values) / min(values) < 10


def test_meshes_are_parsed() -> None:
    assert parse_mesh("fsdp=64,tensor=4") == ct.MeshSpec(fsdp=64, tensor=4)
    assert parse_mesh("data=-1, fsdp=2") == ct.MeshSpec(fsdp=2)


@pytest.mark.parametrize("text", ["", "fsdp", "fsdp=x", "model=2", "fsdp=2,fsdp=2", "fsdp=0", "fsdp=²", "fsdp=--2"])
def test_meshes_that_cannot_be(text: str) -> None:
    with pytest.raises(ct.ConfigError):
        parse_mesh(text)


def test_an_option_that_is_given_twice_counts_twice() -> None:
    for meshes in (["fsdp=2", "model=2"], ["model=2", "fsdp=2"]):
        options = [part for mesh in meshes for part in ("--mesh", mesh)]
        with pytest.raises(ct.ConfigError, match="mesh='model=2'"):
            tyro.cli(plan, args=["train.py", "--topology", "cpu:2", *options])


def test_a_job_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT + "step_options = {'accumulate_steps': 2}\nprecision = 'bf16'\n")
    job = load_job(path, "jax")
    assert job.options.accumulate_steps == 2
    assert job.precision == ct.Precision.parse("bf16")
    placed = job.placed_batch(ct.MeshSpec().resolve(4), wide_integers=False)
    assert {name: (values.shape, str(values.dtype)) for name, values in placed.items()} == {
        "image": ((8, 4), "float32"),
        "label": ((8,), "int32"),
    }
    with pytest.raises(ct.DataError, match="multiple"):
        job.placed_batch(ct.MeshSpec().resolve(8), wide_integers=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del optimizer", "must define .* without optimizer"),
        ("del config", "without jax_model, or config"),
        ("optimizer = 1e-3", "optimizer must be a OptimizerSpec, got float"),
        ("config = 'gpt'", "config must be a config"),
        ("batches = {'x': 1}", "batches must be a function of the step .*, got dict"),
        ("batches = lambda step: [1]", "batches must be a function .* returns a dict of arrays, got list"),
        ("step_options = {'accumulate': 2}", "step_options must be a dict of accumulate_steps"),
        ("sharding = {}", "sharding must be a ShardingRules"),
        ("precision = 'fp8'", "precision must be one of"),
    ],
)
def test_files_that_define_no_step(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"{SCRIPT}\n{change}\n")
    with pytest.raises(ct.ConfigError, match=message):
        load_job(path, "jax")
    with pytest.raises(ct.ConfigError, match="does not exist"):
        load_job(tmp_path / "missing.py", "jax")


def test_slices_multiply_the_chips_and_are_refused_without_any():
    assert Topology.parse("v5e:4x4", 2).chips == 32
    for text, slices in (("cpu:8", 2), ("v5e:4x4", 0)):
        with pytest.raises(ct.ConfigError, match=f"slices must be at least 1, .*got slices={slices}"):
            Topology.parse(text, slices)
