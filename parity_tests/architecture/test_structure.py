"""The house rules that can be read off the tree: twins, sizes, and the public interface."""

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import crosstrain as ct

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("core/crosstrain", "jax_backend/crosstrain_jax", "torch_backend/crosstrain_torch")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
SNAPSHOT = Path(__file__).parent / "public_api.txt"

WITHOUT_TWIN = {
    "layout.py",  # what a JAX state is besides its flat arrays; torch modules hold their own
    "flops.py",  # of a traced program; torch counts with torch.utils.flop_counter
    "compiled.py",  # torch.compile of whole steps; on JAX every step is one
    "hlo.py",  # XLA's program for all devices; torch has none
    "defaults.py",  # JAX's defaults that differ from torch's, for diagnosis
    "threads.py",  # of XLA, for several CPU devices in one process; torch has a process for each
    "models/blocks.py",  # blocks as one stack of arrays, which a loop or a pipeline runs; torch runs them one by one
    "optim/traced.py",  # updates for it; optax's are functions already
    # XLA splits arrays by itself: on torch FSDP2, tensor-parallel layers, experts and local parts are pieces.
    "ddp.py",
    "experts.py",
    "fsdp.py",
    "placing.py",
    "shards.py",
    "stages.py",
    "tensor.py",
    "zero.py",  # DeepSpeed's, for torch only
}


def files(folder: str) -> set[str]:
    return {str(path.relative_to(ROOT / folder)) for path in (ROOT / folder).rglob("*.py")}


def test_engines_mirror_each_other_file_by_file() -> None:
    jax, torch = files("jax_backend/crosstrain_jax"), files("torch_backend/crosstrain_torch")
    assert jax ^ torch == WITHOUT_TWIN


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file opens with what lives in it"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{node.name} has {length} lines"
        if isinstance(node, ast.ClassDef):
            methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
            assert len(methods) <= 16, f"{node.name} has {len(methods)} public methods"


def public_api() -> str:
    """One line per public name, with its signature where it has one, and the public members of classes and modules."""
    return "\n".join(module_lines(ct)) + "\n"


def module_lines(module: ModuleType, prefix: str = "") -> list[str]:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    lines = []
    for name in sorted(getattr(module, "__all__", [name for name in own if not name.startswith("_")])):
        value, full = getattr(module, name), f"{prefix}{name}"
        if inspect.ismodule(value):
            lines += module_lines(value, f"{full}.")
        elif inspect.isclass(value) and not issubclass(value, Exception):
            lines += [f"{full}{signature(value)}", *class_lines(value, full)]
        else:
            lines.append(f"{full}{signature(value) if callable(value) else ''}")
    return lines


def class_lines(cls: type, full: str) -> list[str]:
    """Members of a class and its bases, without fields its signature shows; `__init__` where `__new__` hides it."""
    fields = {*getattr(cls, "__dataclass_fields__", ()), *getattr(cls, "_fields", ())}
    # Bases that are not public themselves are part of the class.
    inherited = [vars(base) for base in cls.__mro__[1:] if base.__module__.startswith("crosstrain.") and hidden(base)]
    found = {name: value for each in [*reversed(inherited), vars(cls)] for name, value in each.items()}
    shown = [name for name in found if not name.startswith("_") and name not in fields]
    shown += ["__init__"] if {"__new__", "__init__"} <= vars(cls).keys() else []
    members = [(name, found[name]) for name in sorted(shown)]
    return [f"{full}.{name}{signature(member) if callable(member) else ''}" for name, member in members]


def hidden(cls: type) -> bool:
    return getattr(ct, cls.__name__, None) is not cls


def signature(value: object) -> str:
    try:
        shown = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value)))  # type: ignore[arg-type]
        return shown.replace("pathlib._local.", "pathlib.")  # where Python 3.13 has it
    except (TypeError, ValueError):
        return ""


def test_the_public_interface_changes_only_on_purpose() -> None:
    """Written by `python -m parity_tests.architecture.test_structure`; commit the difference with its reason."""
    assert public_api() == SNAPSHOT.read_text()


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api())
