"""The YAML at the head of a card, which the Hugging Face Hub reads.

Source: huggingface.co/docs/hub/model-cards, and the specification in huggingface/hub-docs, modelcard.md.
"""

import math
from typing import Any

from crosstrain.cards.facts import CardFacts
from crosstrain.cards.markdown import number
from crosstrain.cards.spec import CardSpec


def front_matter(facts: CardFacts, spec: CardSpec, name: str) -> str:
    """The block with its two rules."""
    import yaml

    return f"---\n{yaml.safe_dump(metadata(facts, spec, name), sort_keys=False, allow_unicode=True)}---"


def metadata(facts: CardFacts, spec: CardSpec, name: str) -> dict[str, Any]:
    """Names and values of the block; what nobody gave is left out."""
    result = facts.result
    # A number that is not finite is none to the Hub, which turns the block into JSON.
    values = {} if result is None else {key: each for key, each in result.evaluation.items() if math.isfinite(each)}
    found: dict[str, Any] = {
        "library_name": "crosstrain",
        "license": spec.license,
        "tags": list(dict.fromkeys(("crosstrain", *spec.tags))),
        "datasets": list(spec.datasets),
        "metrics": sorted(values.keys() - {"loss"}),
    }
    if values and spec.task and spec.datasets:
        dataset = {"type": spec.datasets[0], "name": spec.datasets[0]}
        metrics = [{"type": key, "name": key, "value": float(number(values[key]))} for key in sorted(values)]
        results = [{"task": {"type": spec.task}, "dataset": dataset, "metrics": metrics}]
        found["model-index"] = [{"name": name, "results": results}]
    return {key: each for key, each in found.items() if each}
