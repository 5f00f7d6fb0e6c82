"""Texts for the checks: made-up prose to learn from, and what Unicode holds that careless code loses."""

from __future__ import annotations

import functools
import random
import unicodedata

UNICODE: dict[str, str] = {
    "an empty text": "",
    "one space": " ",
    "runs of spaces": "  a    b" + " " * 70 + "c   ",
    "line ends of every kind": "a\nb\n\n\nc\r\nd\re\u2028f\u2029g\n",
    "spaces before punctuation": "Yes , no . Really ? It 's 1 , 000 do n't\n",
    "tabs and indentation": "def f():\n\tif x:\n\t\treturn    1\n",
    "Chinese": "敏捷的棕色狐狸跳过懒狗。天地玄黄，宇宙洪荒。",
    "rare Chinese": "龘靐齉𠮷𪚥",
    "Japanese and Korean": "いろはにほへと カタカナ ｶﾀｶﾅ 한국어 한국어",
    "emoji with joiners": "👩\u200d👩\u200d👧\u200d👦 👨🏽\u200d🚀 ❤️\u200d🔥",
    "flags and keycaps": "🇨🇳🇩🇪🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 1️⃣",
    "combining marks": "e\u0301 o\u0308 n\u0303 Z\u0351\u036b\u0343 é ö ñ",
    "right to left": "שָׁלוֹם עֲלֵיכֶם مرحبا بالعالم \u202bab\u202c \u200f",
    "Indic scripts": "क्षत्रिय தமிழ் ไทยภาษา ខ្មែរ",
    "control characters": "\x00\x01\x08\x0b\x0c\x1b[31m\x7f\x85",
    "a NUL in the middle": "before\x00after",
    "astral letters": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈𐌰 🀄",
    "private use": "\ue000\uf8ff\U000f0000\U0010fffd",
    "unassigned and noncharacters": "\u0378\ufffe\uffff\U0010ffff",
    "marks of bytes and of errors": "\ufeffa\ufffdb",
    "spaces that are no space": "a\u00a0b\u3000c\u200bd\u2009e\u2581f",
    "compatibility forms": "ﬁ ①② Ａ１ ㌔ ℌ ½",
    "a long word": "ab" * 3000,
}
"""Hard texts by what is in them."""

SPECIAL_NAMES = (
    *("<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|end|>", "<｜end▁of▁sentence｜>", "<end_of_turn>"),
    *(
        "[CLS]",
        "[SEP]",
        "[BOS]",
        "[EOS]",
        "[PAD]",
        "[UNK]",
        "<0x0A>",
        "<bos_token>",
        "<eos_token>",
        "\\n",
        "\x02",
        "\x03",
    ),
)
"""What special tokens are usually called."""

PROBE = "Aa  b\n\n\tc 12."
"""Keeps what an ordinary lossless tokenizer keeps: case, runs of spaces, line ends."""

_SYLLABLES = [a + b + c for a in "bdfgklmnprstv" for b in "aeiou" for c in ("", "n", "r", "s")]


@functools.cache
def prose(documents: int = 120) -> tuple[str, ...]:
    """Return documents of about 2,500 characters each, always the same: common and rare words, lines, some Chinese."""
    draw = random.Random(0)
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    texts = []
    for number in range(documents):
        chosen = draw.choices(words, weights, k=400)
        lines = [" ".join(chosen[at : at + 11]).capitalize() + ".\n" for at in range(0, len(chosen), 11)]
        texts.append(f"Document {number}\n\n{''.join(lines)}\n敏捷的棕色狐狸跳过懒狗。 Größe, naïve, été 😀\n")
    return tuple(texts)


def kept(text: str, found: str) -> bool:
    """Return whether `found` is the text, as it is or as Unicode normalises it."""
    return found in (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")))


def letters(text: str) -> str:
    """Return the letters and digits of a text without case, accents and compatibility forms."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(each for each in plain if unicodedata.category(each)[0] in "LN")
