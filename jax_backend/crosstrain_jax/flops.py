"""Floating-point operations of matrix products and convolutions in a traced program, over all devices.

Counted before the compiler sees the program, so that it does not matter how it writes a product. No twin: torch has
`torch.utils.flop_counter`.
"""

import math
from typing import Any


def matmul_flops(jaxpr: Any) -> float:
    """2 m n k of every product of (m, k) and (k, n), as often as loops of known length run it.

    Args:
        jaxpr: of `jax.make_jaxpr` or `jax.stages.Traced.jaxpr`. Branches count as the most expensive one, `while`
            loops, whose length is unknown, once.
    """
    return sum(_flops(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        # Each output adds up the kernel's elements of its own feature.
        kernel, features = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[features]
    if name == "cond":
        return max(matmul_flops(branch) for branch in params["branches"])
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":
        times = params["mesh"].size
    return times * sum(matmul_flops(inner) for value in params.values() for inner in _inner(value))


def _inner(value: Any) -> list[Any]:
    """Programs among an equation's parameters; a rule for derivatives that was not traced is none."""
    values = value if isinstance(value, tuple | list) else [value]
    return [each for each in values if hasattr(each, "eqns") or hasattr(getattr(each, "jaxpr", None), "eqns")]
