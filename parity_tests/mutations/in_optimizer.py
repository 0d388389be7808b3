"""Differences in the update: the same numbers in the spec, another step."""

import crosstrain as ct

from . import losses
from . import updates as u
from .planting import Mutation, loss

M = Mutation

IN_OPTIMIZER = (
    # Optimizer: the same numbers, another update.
    M(
        name="missing bias correction",
        base="mlp",
        channel="optimizer",
        where="layers",
        live=u.around_step(u.no_bias_correction),
    ),
    M(name="native beta2 differs", base="gpt", channel="optimizer", where="weight", live=u.groups(betas=(0.9, 0.99))),
    M(
        name="decay applied twice",
        base="gpt",
        channel="optimizer",
        where="weight",
        live=u.around_step(u.decay_after_update),
    ),
    M(
        name="native decay differs",
        base="resnet9",
        channel="optimizer",
        where="weight",
        live=u.groups(weight_decay=2e-3),
    ),
    M(name="native eps differs", base="gpt", channel="optimizer", where="weight", live=u.groups(eps=1e-6)),
    M(name="dampening", base="resnet9", channel="optimizer", where="weight", live=u.groups(dampening=0.1)),
    M(
        name="one parameter moves twice as far",
        base="resnet9",
        channel="optimizer",
        where="prep.conv.weight",
        live=u.around_step(u.first_parameter_twice),
    ),
    M(
        name="eps inside the root",
        base="mlp",
        channel="optimizer",
        where="layers",
        live=u.around_step(u.eps_root(1e-8)),
    ),
    M(
        name="decay on biases and norms",
        base="native",
        channel="optimizer",
        where="norm.weight",
        live=u.groups(weight_decay=0.01),
    ),
    M(name="native average differs", base="muon", channel="optimizer", where="average/", live=u.average(ct.ema(0.8))),
    M(
        name="Lion takes its sign with beta2",
        base="lion",
        channel="optimizer",
        where="layers",
        live=u.around_step(u.swapped_betas),
    ),
    M(
        name="Muon: native Nesterov off",
        base="muon",
        channel="optimizer",
        where="layers",
        live=u.respecified(nesterov=False),
    ),
    M(name="Muon: another scale", base="muon", channel="optimizer", where="layers", live=u.muon_scale(0.2)),
    M(
        name="Muon: rate of the other parameters",
        base="muon",
        channel="optimizer",
        where="norm.weight",
        live=u.respecified(fallback_scale=1.0),
    ),
    M(
        name="NAdam: native momentum decay differs",
        base="nadam",
        channel="optimizer",
        where="layers",
        live=u.groups(momentum_decay=8e-3),
    ),
    M(
        name="RMSprop: eps inside the root",
        base="rmsprop",
        channel="optimizer",
        where="layers",
        live=u.around_step(u.rmsprop_eps_root),
    ),
    M(
        name="Adafactor: another decay",
        base="adafactor",
        channel="optimizer",
        where="layers",
        live=u.groups(beta2_decay=-0.7),
    ),
    M(name="Adafactor: clips harder", base="adafactor", channel="optimizer", where="layers", live=u.groups(d=0.5)),
    # The whole step: its parts agree.
    M(name="mean of means", base="gpt", channel="step", where="loss", change=loss(losses.mean_of_means)),
    M(name="summed accumulation", base="gpt", channel="step", where="grad_norm", live=u.summed_gradients),
    M(name="clipped before averaging", base="gpt", channel="step", where="grad_norm", live=u.clipped_before_averaging),
    M(name="clip limit inside the step", base="gpt", channel="step", where="update of", live=u.clip(0.4)),
)
