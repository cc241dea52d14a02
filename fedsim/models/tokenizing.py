"""What a tokenizer puts around a text, and whether it fits a model."""

from typing import cast

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase

from fedsim.errors import BadInput, reading
from fedsim.types import Tokens

WORD = "word"
RARE = "\ua66e"  # a letter that one medieval manuscript has, and no vocabulary


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokens, Tokens]:
    """Return the special tokens that ``tokenizer`` puts before and after every text.

    They are read off its template, by a tokenizer of one word that shares that: no text need be in
    the vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in plain Python
        full = tokenizer.build_inputs_with_special_tokens([WORD])
        place = full.index(WORD)
        return tuple(full[:place]), tuple(full[place + 1 :])
    probe = Tokenizer(WordLevel({WORD: 0}, unk_token=WORD))
    if backend.post_processor is not None:
        probe.post_processor = backend.post_processor
    encoding = probe.encode(WORD)
    place = encoding.sequence_ids.index(0)
    return tuple(encoding.ids[:place]), tuple(encoding.ids[place + 1 :])


def takes_any_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a text may hold what the vocabulary does not; else that raises."""
    try:
        tokenizer(RARE)
    except Exception:  # of any kind: tokenizers raise Exception itself
        return False
    return True


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, task: str, vocabulary: int, key: str, model: str
) -> None:
    """Raise BadInput where ``tokenizer`` does not fit a model that embeds ``vocabulary`` ids.

    Args:
        tokenizer: the one to look at.
        task: what the model is trained on.
        vocabulary: V, the rows of the embedding.
        key: what the line is about.
        model: what the line calls the model.
    """
    with reading(f"{key}: its special tokens cannot be read"):
        ids = {*tokenizer.get_vocab().values(), *sum(around(tokenizer), ())}
        special, mask = tokenizer.all_special_ids, tokenizer.mask_token_id
        names = {
            tokenizer.convert_tokens_to_ids(token): name
            for name, token in tokenizer.special_tokens_map.items()
            if name.endswith("_token") and name != "mask_token"
        }
    with reading(f"{key}: it cannot take even an empty text"):
        tokenizer("")  # what its settings hinder, such as a length in words
    if not ids.difference(special):
        raise BadInput(f"{key}: it knows no token of a text")
    if max(ids) >= vocabulary:
        raise BadInput(
            f"{key}: its largest id is {max(ids)}, but {model} embeds only {vocabulary} "
            f"(0 to {vocabulary - 1})"
        )
    if task == "masked-lm" and mask is None:
        raise BadInput(f"{key}: it has no mask token, which the task masked-lm trains with")
    if task == "masked-lm" and (other := names.get(cast(int, mask))):
        raise BadInput(
            f"{key}: the task masked-lm wants a mask token that is no other, got "
            f"{tokenizer.mask_token!r}, which is its {other}"
        )
