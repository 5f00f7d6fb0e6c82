"""The tokenizer `sentencepiece`: its ids are those of the library, and what it learns from."""

import pytest
import sentencepiece

from llmx.errors import DataError
from llmx_tokenizers.sampling import sample


def test_the_ids_are_those_of_sentencepiece(tmp_path, build, texts, hard):
    """tokenizer.model read by the library itself gives the same ids, and the line end is one of them."""
    tokenizer = build("sentencepiece", vocab_size=380)
    tokenizer.save(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ordinary = [text for text in hard + texts if "▁" not in text]
    assert [theirs.encode(text) for text in ordinary] == tokenizer.encode_batch(ordinary)
    assert tokenizer.encode("\n\n") == [4, 4]
    assert tokenizer.vocab_size == 380


def test_indentation_has_pieces(build):
    """Runs of spaces are learned: four of them are not four ids."""
    tokenizer = build("sentencepiece", vocab_size=380)
    assert len(tokenizer.encode("        return")) < 5


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_small_corpus_gives_what_it_is_enough_for(model_type, capfd, build):
    """One line says how many ids there are; asking for as many gives the same ids and no line."""
    fewer = build("sentencepiece", vocab_size=9999, model_type=model_type)
    said = f"llmx: tokenizer: learned {fewer.vocab_size:,} ids, for the training texts are enough for no more"
    assert capfd.readouterr() == ("", f"{said} (tokenizer.vocab_size = 9999)\n")
    same = build("sentencepiece", vocab_size=fewer.vocab_size, model_type=model_type)
    assert 300 < same.vocab_size == fewer.vocab_size
    assert same.encode("The quick dog") == fewer.encode("The quick dog")
    assert capfd.readouterr() == ("", "")


def test_too_small_a_vocabulary_names_one_that_works(build):
    """The error has the smallest size for the characters of the text."""
    with pytest.raises(DataError, match=r"tokenizer\.vocab_size = 270: .*need \d+; set that, or lower") as caught:
        build("sentencepiece", vocab_size=270)
    size = int(str(caught.value).split("need ")[1].split(";")[0])
    assert build("sentencepiece", vocab_size=size).vocab_size == size


@pytest.mark.parametrize("texts", [[], ["", "\n"], ["\0", "▁"]])
def test_no_text_to_learn_from_is_an_error(texts, build):
    """Nothing, white space and signs that cannot be learned give an error of one line."""
    with pytest.raises(DataError, match=r"tokenizer") as caught:
        build("sentencepiece", texts)
    assert "\n" not in str(caught.value)


def test_long_lines_are_learned_from(build, texts):
    """A document of one line, longer than the trainer takes, is not left out."""
    lines = build("sentencepiece", texts * 10, vocab_size=380)
    one = build("sentencepiece", ["".join(texts * 10).replace("\n", " ")], vocab_size=380)
    assert len(one.encode(texts[0])) <= 1.2 * len(lines.encode(texts[0]))


def test_a_sample_is_bounded_even_and_repeatable():
    """It keeps all of a small corpus; of a large one it keeps less than the bound, from its beginning to its end."""
    assert sample(["a", "b", "", "d"], 10_000) == ["a", "b", "", "d"]
    lines = [f"line {n:05}" for n in range(20_000)]
    kept = sample(lines, 20_000)
    assert kept == sample(iter(lines), 20_000)
    assert 10_000 * 0.8 < sum(map(len, kept)) <= 20_000
    quarters = [sum(int(line[5:]) // 5000 == quarter for line in kept) / len(kept) for quarter in range(4)]
    assert all(0.2 < share < 0.3 for share in quarters)
    assert 0.4 < sum(int(line[5:]) % 2 for line in kept) / len(kept) < 0.6
