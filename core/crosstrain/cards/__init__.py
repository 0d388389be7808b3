"""Model cards: a README.md in Hugging Face's form, with the settings, the table and the curves of a run."""

from crosstrain.cards.spec import CardSpec
from crosstrain.cards.writing import model_card

__all__ = ["CardSpec", "model_card"]
