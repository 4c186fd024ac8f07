"""A word-piece tokenizer without files, for small random models and tests."""

import string
from itertools import product
from typing import Any

from common.config import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FREQUENT = (
    "the of and to in a is was that for it as with his on be at by he this had not are but from "
    "or have an they which one you were her all she there would their we him been has when who "
    "will more no if out so said what up its about into than them can only other new some could "
    "time these two may then do first any my now such like our over man me even most made after "
    "also did many before must through back years where much your way well down should because "
    "each just those people how too little state good very make world still own see men work"
)
_LETTERS = string.ascii_lowercase


def _pieces() -> list[str]:
    characters = _LETTERS + string.digits
    pieces = [*SPECIALS, *string.punctuation, *characters, *(f"##{c}" for c in characters)]
    pieces += [word for word in _FREQUENT.split() if len(word) > 1]
    pairs = ["".join(pair) for pair in product(_LETTERS, repeat=2)]
    pieces += [piece for pair in pairs for piece in (f"##{pair}", pair)]
    return list(dict.fromkeys(pieces))


def tiny_tokenizer(vocab_size: int = 256, *, max_length: int = 128) -> Any:
    """A lower-casing tokenizer of frequent words, letters and letter pairs, as BERT's works.

    Every ASCII text can be written; a word with other characters (after removal of accents)
    becomes [UNK]. The vocabulary is always the same: ids 0-4 are [PAD] [UNK] [CLS] [SEP] [MASK].

    Args:
        vocab_size: upper bound of the vocabulary, which has at most about 1,600 pieces.
        max_length: ``model_max_length``, special tokens included.

    Returns:
        A `transformers.PreTrainedTokenizerFast`.

    Raises:
        UserError: `vocab_size` has no room for the special tokens and all characters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    needed = len(SPECIALS) + len(string.punctuation) + 2 * (len(_LETTERS) + 10)
    if vocab_size < needed:
        raise UserError(f"the built-in tokenizer needs vocab_size >= {needed}, got {vocab_size}")
    vocab = {piece: i for i, piece in enumerate(_pieces()[:vocab_size])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
