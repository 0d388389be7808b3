"""Meshes of the torch engine: which layers are split how, models made by functions, bfloat16, and what is refused."""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from parity_tests import layouts, starting
from parity_tests.meshes import cases, own_torch
from parity_tests.meshes.odd_torch import odd
from torch import nn
from torch.distributed.tensor import Replicate, Shard

import crosstrain as ct
from crosstrain.mesh import AXES
from crosstrain.sharding import plan_model
from crosstrain_torch import naming, tensor
from crosstrain_torch.models import GPT, MLP

WORKER = Path(__file__).parent / "mesh_worker.py"
TENSOR = MappingProxyType({axis: 2 if axis == "tensor" else 1 for axis in AXES})


def styles(model: nn.Module, **axes: tuple[str | None, ...]) -> dict[str, tuple[str, bool, bool]]:
    """Path -> style, whether its input is split, whether its output is."""
    rules = ct.ShardingRules(logical_axes={name.replace("__", "."): each for name, each in axes.items()})
    shapes = {name: tuple(param.shape) for name, param in naming.parameters(model).items()}
    found = tensor.styles(model, plan_model(model, shapes, TENSOR, rules))
    return {
        path: (type(style).__name__[:3], style.input_layouts != (Replicate(),), style.output_layouts == (Shard(-1),))
        for path, style in found.items()
    }


COLUMNS, ROWS = ("Col", False, True), ("Row", True, False)
GATHERED = ("Col", False, False)


def test_layers_of_an_mlp_take_turns_and_the_last_one_is_gathered() -> None:
    assert styles(MLP(ct.models.MLPConfig(hidden=(8, 4)))) == {
        "layers.0": COLUMNS,
        "layers.1": ROWS,
        "layers.2": GATHERED,
    }


def test_attention_keeps_its_heads_apart() -> None:
    config = ct.models.GPTConfig(vocab_size=32, dim=16, n_layers=1, n_heads=4, n_kv_heads=2, mlp_dim=24, max_seq_len=8)
    assert styles(GPT(config)) == {
        "tok_embeddings": ("Row", False, False),
        **{f"layers.0.attention.{name}": COLUMNS for name in ("wq", "wk", "wv")},
        "layers.0.attention.wo": ROWS,
        "layers.0.feed_forward.w1": COLUMNS,
        "layers.0.feed_forward.w3": COLUMNS,
        "layers.0.feed_forward.w2": ROWS,
        "output": GATHERED,
    }


def test_a_layer_whose_features_nobody_reads_split_is_gathered() -> None:
    """And one by rows whose input is whole takes its part of it."""
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False))
    found = styles(model, **{"0__weight": ("vocab", "embed"), "1__weight": ("embed", "mlp")})
    assert found == {"0": GATHERED, "1": ("Row", False, False)}


@pytest.mark.parametrize(
    ("model", "axes", "message"),
    [
        (
            nn.Linear(4, 8),
            {"weight": ("mlp", "embed")},
            r"bias of a layer split by columns must be split too, got bias whole .*\{'bias': \('mlp',\)\}",
        ),
        (nn.Linear(4, 8), {"weight": ("embed", "mlp"), "bias": ("mlp",)}, r"must be whole .*\{'bias': \(None,\)\}"),
        (nn.Linear(4, 8), {"bias": ("mlp",)}, r"must be whole .*got bias split over tensor"),
        (nn.LayerNorm(4), {"weight": ("mlp",)}, r"splits nn.Linear and nn.Embedding .*got weight of LayerNorm"),
        (nn.MultiheadAttention(16, 2), {"out_proj__weight": ("embed", "heads")}, r"got out_proj.weight of"),
        (nn.MultiheadAttention(16, 2), {"in_proj_weight": ("heads", "embed")}, r"got in_proj_weight of Multihead"),
    ],
)
def test_layers_that_cannot_be_split_so_are_refused(model: nn.Module, axes: dict, message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        styles(model, **axes)


@pytest.mark.parametrize("make", [own_torch.make, nn.Linear])
def test_a_function_that_makes_no_model_or_one_that_cannot_start_is_refused(make: object) -> None:
    accelerator = ct.Accelerator("torch")
    with pytest.raises(ct.CrosstrainError, match=r"must have reset_parameters|got the class Linear"):
        accelerator.prepare(make)


def test_a_function_makes_the_model_without_memory() -> None:
    seen: list[str] = []

    def make() -> nn.Module:
        model = nn.Linear(4, 2)
        seen.append(model.weight.device.type)
        return model

    torch.manual_seed(3)
    whole = nn.Linear(4, 2).weight
    accelerator = ct.Accelerator("torch", seed=3)
    state = accelerator.prepare(make)
    assert seen == ["meta"]
    assert np.array_equal(state.snapshot().params["weight"], whole.detach().numpy())


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("meshes")
    starting.run(starting.torchrun(2, WORKER, folder))
    return [layouts.read(folder, index) for index in range(2)]


def part(results: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): each for name, each in results.items() if name.startswith(prefix)}


@pytest.mark.parametrize("mesh", ["data", "fsdp", "tensor"])
@pytest.mark.parametrize("kind", ["started", "paired"])
def test_a_model_made_by_a_function_is_the_one_made_whole(processes: list, mesh: str, kind: str) -> None:
    for results in processes:
        whole, made = (part(results, f"{mesh}/{kind}|{name}/") for name in ("whole", "by function"))
        assert whole.keys() == made.keys()
        assert len(whole) > 5
        assert all(np.array_equal(whole[name], made[name]) for name in whole)
        assert all(np.array_equal(each, part(processes[0], f"data/{kind}|whole/")[n]) for n, each in whole.items()) or (
            kind == "started"
        )


@pytest.mark.parametrize("min_size", [0, 100, 10**6])
@pytest.mark.parametrize("mesh", ["fsdp", "tensor"])
def test_shared_reused_unused_and_frozen_weights(processes: list, mesh: str, min_size: int) -> None:
    """Accumulated over micro-batches and clipped, with some or all parameters whole."""
    expected = odd(ct.MeshSpec())
    for results in processes:
        assert cases.worst(part(results, f"{mesh}/odd {min_size}|"), expected)[0] < 1e-12


def test_fsdp_computes_in_bfloat16_what_ddp_computes(processes: list) -> None:
    for results in processes:
        ddp, fsdp = (part(results, f"{mesh}/low|") for mesh in ("data", "fsdp"))
        for name in ("mlp", "gpt"):
            assert fsdp[f"{name}/types"].tolist() == ["torch.bfloat16", "torch.float32"]
            assert fsdp[f"{name}/loss"] == pytest.approx(ddp[f"{name}/loss"], rel=1e-3)


def test_examples_that_two_processes_have_are_given_once(processes: list) -> None:
    for results in processes:
        found = {name: values.tolist() for name, values in part(results, "gathered|").items()}
        assert found == {"data": [0, 1, 10, 11], "fsdp": [0, 1, 10, 11], "tensor": [0, 1]}


def test_a_step_that_failed_leaves_nothing_that_later_ones_use(processes: list) -> None:
    for results in processes:
        found, expected = results["recovered|loss"]
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_gradients_that_were_left_are_not_added(processes: list, mesh: str) -> None:
    """By the user's own backward pass, and by a step that failed in the middle of its micro-batches."""
    for results in processes:
        clean, *others = results[f"left|{mesh}"]
        assert others == pytest.approx([clean, clean], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "ConfigError: a model must be prepared once where it is split over a mesh, got a FSDPTagger"),
        ("penalty", "LossError: a loss function must use parameters that are split over a mesh through the model's"),
        ("pieces", "LossError: a loss function must use parameters that are split over a mesh through the model's"),
        ("probe", "ConfigError: probe_step must see whole activations, got tensor=2"),
        ("no reset", "ConfigError: a model made by a function must be able to start on any device: the model (Tagger)"),
        ("no model", "ModelError: model must be a torch.nn.Module on the torch engine, got builtins.int."),
        ("meshes", "ConfigError: mesh must be the same on every process, got mesh={'data': 1, 'fsdp': 2,"),
    ],
)
def test_what_a_mesh_cannot_do_is_refused(processes: list, name: str, message: str) -> None:
    for results in processes:
        assert str(results[f"refused|{name}"]).startswith(message), results[f"refused|{name}"]
