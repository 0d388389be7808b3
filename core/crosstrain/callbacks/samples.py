"""What the model says while it trains: predictions for the same examples, text that goes on from the same prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crosstrain.callbacks.base import Callback, Run
from crosstrain.errors import ConfigError, require_count
from crosstrain.random import uniform


class Predictions(Callback):
    """Predicts the same batch at the beginning of `fit` and after every `every` epochs.

    Args:
        batch: this process's part, arrays of shape (B, ...), on the host.
        predict_fn: as for `Accelerator.predict_step`.
        every: epochs.

    Attributes:
        found: (optimizer steps, arrays on the host by name), in order.

    Raises:
        ConfigError: less than one epoch.
    """

    def __init__(self, batch: dict[str, np.ndarray], predict_fn: Callable[..., Any], *, every: int = 1) -> None:
        require_count("every", every)
        self._batch, self._predict_fn, self._every = batch, predict_fn, every
        self.found: list[tuple[int, dict[str, np.ndarray]]] = []

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        self._predict = run.trainer.accelerator.predict_step(self._predict_fn)
        self._look(run)

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        if (run.epoch + 1) % self._every == 0:
            self._look(run)

    def _look(self, run: Run) -> None:
        self.found.append((run.state.step, self._predict(run.state, self._batch)))


class TextSamples(Callback):
    """Lets a language model go on from the same prompts at the beginning of `fit` and after every `every` epochs.

    The model is called as `model(tokens)` with tokens of shape (B, context), int32, and returns logits of shape
    (B, context, V). Every call has one shape, so nothing is compiled for a longer text. Token i is the argmax of
    logits / temperature + g with g = -log(-log(u)) (Gumbel 1954), and u a function of (seed, step, place), the same on
    every engine; at temperature 0 the argmax of the logits.

    Args:
        prompts: token ids, one sequence for each sample, none empty.
        length: tokens to add.
        context: tokens that the model sees, at most its longest sequence.
        decode: token ids -> text.
        temperature: at least 0.
        every: epochs.
        seed: of the choice of tokens.
        show: called on the main process with (optimizer steps, texts).

    Attributes:
        found: (optimizer steps, texts of the prompts with what was added), in order.

    Raises:
        ConfigError: no prompt, an empty one, or a number out of range.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        length: int,
        context: int,
        decode: Callable[[Sequence[int]], str],
        temperature: float = 1.0,
        every: int = 1,
        seed: int = 0,
        show: Callable[[int, list[str]], None] | None = None,
    ) -> None:
        for name, value in (("length", length), ("context", context), ("every", every)):
            require_count(name, value)
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise ConfigError(f"prompts must be sequences of at least one token, got {list(map(list, prompts))}.")
        if not temperature >= 0.0:
            raise ConfigError(f"temperature must be at least 0, got temperature={temperature}.")
        self._prompts = [list(map(int, prompt)) for prompt in prompts]
        self._length, self._context, self._every, self._seed = length, context, every, seed
        self._decode, self._temperature, self._show = decode, temperature, show
        self.found: list[tuple[int, list[str]]] = []

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        self._predict = run.trainer.accelerator.predict_step(lambda model, batch, ops: model(batch["tokens"]))
        self._look(run)

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        if (run.epoch + 1) % self._every == 0:
            self._look(run)

    def _look(self, run: Run) -> None:
        texts = [list(prompt) for prompt in self._prompts]
        for place in range(self._length):
            for text, token in zip(texts, self._next(run, texts, place), strict=True):
                text.append(token)
        step, shown = run.state.step, [self._decode(text) for text in texts]
        self.found.append((step, shown))
        if self._show is not None and run.is_main_process:
            self._show(step, shown)

    def _next(self, run: Run, texts: list[list[int]], place: int) -> list[int]:
        """One token for each text, from the logits at its last position."""
        rows = -(-len(texts) // run.trainer.accelerator.device_count) * run.trainer.accelerator.device_count
        window = np.zeros((rows, self._context), np.int32)
        for row, text in enumerate(texts):
            seen = text[-self._context :]
            window[row, : len(seen)] = seen
        found = self._predict(run.state, {"tokens": window})["prediction"]
        ends = [min(len(text), self._context) - 1 for text in texts]
        logits = found[np.arange(len(texts)), ends].astype(np.float64)
        if self._temperature > 0.0:
            u = uniform(self._seed, f"text/{run.state.step}/{place}", logits.shape)
            with np.errstate(divide="ignore"):
                logits = logits / self._temperature - np.log(-np.log(u))
        return [int(token) for token in logits.argmax(-1)]
