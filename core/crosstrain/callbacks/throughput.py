"""Model FLOPs utilisation."""

from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.errors import ConfigError


class Mfu(Callback):
    """Adds `mfu` to what is logged: the share of the devices' peak that the model's own arithmetic uses.

    mfu = examples per second x FLOPs per example / (devices x peak FLOPs per second). FLOPs per example are those of
    forward and backward pass, nothing recomputed, by default 6 x parameters x tokens (Kaplan et al. 2020, section 2.1;
    Chowdhery et al. 2022, appendix B, without the attention term).

    Args:
        peak_flops_per_s: of one device in the precision of the run, from its data sheet (H100 SXM, bf16: 989e12).
        flops_per_example: forward and backward; None takes the formula.
        tokens_per_example: for the formula; 1 for models that see an example at once, which it underestimates where
            weights are used more than once, as in convolutions.

    Raises:
        ConfigError: a number that is not above 0.
    """

    def __init__(
        self, peak_flops_per_s: float, *, flops_per_example: float | None = None, tokens_per_example: int = 1
    ) -> None:
        numbers = {
            "peak_flops_per_s": peak_flops_per_s,
            "flops_per_example": flops_per_example,
            "tokens_per_example": tokens_per_example,
        }
        for name, value in numbers.items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {name}={value}.")
        self._peak, self._flops, self._tokens = peak_flops_per_s, flops_per_example, tokens_per_example

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        flops = 6.0 * run.state.parameter_count * self._tokens if self._flops is None else self._flops
        self._scale = flops / (self._peak * run.trainer.accelerator.device_count)

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        record.values["mfu"] = record.values["examples_per_second"] * self._scale
