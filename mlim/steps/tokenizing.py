"""The tokenizer that trainings of a recipe would have for some texts."""

from collections.abc import Sequence

from mlim.data.tokenize import TextTokenizer
from mlim.recipe import Recipe


def tokenizer_for(recipe: Recipe, texts: Sequence[str]) -> TextTokenizer:
    """The pre-trained start's own tokenizer, else one learned from these texts; `InputError` for a start not there."""
    if not recipe.model.pretrained:
        return TextTokenizer.learn(texts, recipe.text.vocabulary_size)
    from mlim.models.hub import load_tokenizer  # torch takes seconds to load: not for a start that needs none

    return load_tokenizer(recipe.network)
