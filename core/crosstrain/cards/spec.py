"""`CardSpec`: what only people know of a model, and its card is to say."""

from dataclasses import dataclass
from pathlib import Path

from crosstrain.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSpec:
    """What a run cannot know of its model.

    Attributes:
        name: title of the card; None takes the name of its directory.
        description: Markdown that follows the title.
        license: identifier as the Hugging Face Hub has it, such as `apache-2.0`.
        tags: beside `crosstrain`.
        datasets: names of the training data. The first one stands for the evaluation in `model-index`.
        task: such as `image-classification`. `model-index` is written where there are a task and a data set.
        portable: where `accelerator.export` writes this state, for the lines that say how to load it.

    Raises:
        ConfigError: a string where names belong, or an empty name.
    """

    name: str | None = None
    description: str = ""
    license: str | None = None
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    task: str | None = None
    portable: Path | str | None = None

    def __post_init__(self) -> None:
        for field in ("tags", "datasets"):
            names = getattr(self, field)
            if not isinstance(names, tuple) or not all(isinstance(each, str) and each for each in names):
                raise ConfigError(
                    f"{field} must be a tuple of names, got {field}={names!r}. Use for example ('a', 'b')."
                )
        for field in ("name", "license", "task"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ConfigError(f"{field} must be a name or None, got {field}={value!r}.")
