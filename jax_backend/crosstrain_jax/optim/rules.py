"""Which rule belongs to which spec."""

from collections.abc import Mapping, Sequence

from crosstrain.errors import ConfigError
from crosstrain.optim import (
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Lamb,
    Lion,
    Muon,
    NAdam,
    OptimizerSpec,
    ParamSettings,
    RAdam,
    RmsProp,
    Sgd,
)
from crosstrain_jax.naming import Leaf
from crosstrain_jax.optim import adafactor, adam, adam_variants, adaptive, lamb, lion, muon, sgd
from crosstrain_jax.optim.base import Grouped, Optimizer, Rule

RULES: Mapping[type[OptimizerSpec], Rule] = {
    Sgd: sgd.sgd,
    Adam: adam.adam,
    AdamW: adam.adamw,
    NAdam: adam_variants.nadam,
    RAdam: adam_variants.radam,
    RmsProp: adaptive.rmsprop,
    Adagrad: adaptive.adagrad,
    Lion: lion.lion,
    Lamb: lamb.lamb,
    Adafactor: adafactor.adafactor,
    Muon: muon.muon,
}


def build(spec: OptimizerSpec, names: Sequence[Leaf]) -> Grouped:
    """A spec over parameters with these names, layouts and roles.

    Raises:
        ConfigError: a spec this engine does not know.
    """
    if type(spec) not in RULES:
        known = ", ".join(kind.__name__ for kind in RULES)
        raise ConfigError(f"optimizer must be one of {known} on the jax engine, got {type(spec).__name__}.")
    places: dict[ParamSettings, list[int]] = {}
    for place, leaf in enumerate(names):
        places.setdefault(spec.settings(leaf.name, leaf.role), []).append(place)
    parts = tuple(
        Optimizer(spec, RULES[type(spec)], tuple(names[place] for place in where), (settings,) * len(where))
        for settings, where in places.items()
    )
    return Grouped(parts, tuple(tuple(where) for where in places.values()))
