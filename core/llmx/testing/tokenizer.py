"""What a tokenizer promises: nothing is lost, nothing is forged, and what was saved is what is loaded."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from llmx.generate.text import REPLACEMENT, stream_text
from llmx.protocols import Tokenizer
from llmx.testing.corpus import PROBE, SPECIAL_NAMES, UNICODE, kept, letters, prose
from llmx.testing.elsewhere import in_another_process
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.samples import contents
from llmx.testing.words import SHORT, differ, short


def round_trip(subject: Subject) -> None:
    """A text comes back from its ids, up to Unicode normalisation.

    A tokenizer that keeps white space, case and a character that it never saw must keep everything; one that does
    not claim that much must keep the letters and digits of text like that which it learned from.
    """
    tokenizer = build(subject)
    lossless = all(kept(text, back(tokenizer, text)) for text in (PROBE, "a\u9f98b"))
    if lossless:
        for what, text in (UNICODE | {name: name for name in SPECIAL_NAMES}).items():
            found = back(tokenizer, text)
            how = f"{text!r} comes back as {found!r}" if len(text) <= SHORT else differ(text, found)
            assert kept(text, found), f"{what}: {how}"
    elif not learns(subject):
        raise NotApplicable("it does not keep every text, and it learned elsewhere what it keeps")
    for text in prose()[:20]:
        found = back(tokenizer, text)
        same = kept(text, found) if lossless else letters(text) == letters(found)
        assert same, f"an ordinary document: {differ(text, found)}"


def comes_to_rest(subject: Subject) -> None:
    """Encoding and decoding again and again changes a text no more: it does not grow or shrink each time."""
    tokenizer = build(subject)
    for what, text in {**UNICODE, "a document": prose()[0]}.items():
        once = back(tokenizer, text)
        twice = back(tokenizer, once)  # a character that is dropped may leave two spaces, which become one
        thrice = back(tokenizer, twice)
        assert twice == thrice, f"{what}: {short(text)} becomes {short(once)}, and in the end {short(thrice)}"


def whole_ids(subject: Subject) -> None:
    """Ids are a list of Python ints from 0 up to vocab_size, those of the special tokens too."""
    tokenizer = build(subject)
    size = tokenizer.vocab_size
    assert type(size) is int, f"vocab_size is {size!r}, a {type(size).__name__}"
    for name in ("bos_id", "eos_id"):
        special = getattr(tokenizer, name)
        if special is not None:
            assert type(special) is int, f"{name} is {special!r}, a {type(special).__name__}"
            assert 0 <= special < size, f"{name} is {special}, beyond vocab_size = {size}"
    for what, text in (*UNICODE.items(), *(("a document", text) for text in prose())):
        ids = tokenizer.encode(text)
        assert isinstance(ids, list), f"encode returned a {type(ids).__name__}, not a list"
        odd = next((each for each in ids if type(each) is not int or not 0 <= each < size), None)
        assert odd is None, f"{what}: {short(text)} has the id {odd!r} ({type(odd).__name__}); vocab_size = {size}"


def batch(subject: Subject) -> None:
    """A batch gives each text the ids that it has alone, in order."""
    tokenizer = build(subject)
    texts = [*UNICODE.values(), *prose()[:5], "".join(prose()[:20])]
    found = tokenizer.encode_batch(texts)
    assert len(found) == len(texts), f"{len(texts)} texts gave {len(found)} lists"
    for text, ids in zip(texts, found, strict=True):
        alone = tokenizer.encode(text)
        assert ids == alone, f"{short(text)}: in a batch {ids[:8]}..., alone {alone[:8]}..."
    empty = tokenizer.encode_batch([])
    assert list(empty) == [], f"no texts gave {empty!r}"


def nothing(subject: Subject) -> None:
    """No text has no ids, and no ids have no text."""
    tokenizer = build(subject)
    assert tokenizer.encode("") == [], f"the empty text has the ids {tokenizer.encode('')}: bos and eos are added later"
    assert tokenizer.decode([]) == "", f"no ids decode to {tokenizer.decode([])!r}"


def specials_are_never_made_from_text(subject: Subject) -> None:
    """The name of a special token in a text is text: no text has the id of bos or eos."""
    tokenizer = build(subject)
    specials = special_ids(tokenizer)
    if not specials:
        raise NotApplicable("it has neither bos nor eos")
    for name in (*SPECIAL_NAMES, *names_in(saved(tokenizer, subject.scratch / "saved"))):
        for text in (name, f"a{name}b", f"a {name} {name}", f"{name}\n"):
            found = [each for each in tokenizer.encode(text) if each in specials]
            assert not found, f"the text {text!r} has the id {found[0]}, which is a special token's"


def specials_say_nothing(subject: Subject) -> None:
    """Special tokens decode to nothing, wherever they stand."""
    tokenizer = build(subject)
    specials = special_ids(tokenizer)
    if not specials:
        raise NotApplicable("it has neither bos nor eos")
    ids = tokenizer.encode("some text")
    text = tokenizer.decode(ids)
    for special in specials:
        alone, around = tokenizer.decode([special]), tokenizer.decode([special, *ids, special])
        assert alone == "", f"the special token {special} decodes to {alone!r}"
        assert around == text, f"{text!r} between special tokens {special} decodes to {around!r}"


def markup(subject: Subject) -> None:
    """Markup makes the special tokens that it names, and nothing else than `encode` of other text."""
    tokenizer = build(subject)
    for what, text in UNICODE.items():
        ids, alone = tokenizer.encode_markup(text), tokenizer.encode(text)
        assert ids == alone, f"{what}: as markup {short(text)} has the ids {ids[:8]}..., as text {alone[:8]}..."
    none = tokenizer.special_id("no special token")
    assert none is None, f"special_id of a name that no special token has is {none!r}, not None"
    for name in (*SPECIAL_NAMES, *names_in(saved(tokenizer, subject.scratch / "saved"))):
        special = tokenizer.special_id(name)
        if special is None:
            continue
        assert type(special) is int, f"special_id({name!r}) is {special!r}, a {type(special).__name__}"
        assert 0 <= special < tokenizer.vocab_size, f"special_id({name!r}) is {special}, beyond vocab_size"
        for text, count in ((name, 1), (f"{name}a{name}", 2)):
            ids = tokenizer.encode_markup(text)
            assert ids.count(special) == count, f"the markup {text!r} has the ids {ids}, and {name!r} is {special}"


def special_tokens_that_are_asked_for(subject: Subject) -> None:
    """Each of the option `special_tokens` has an id of its own that text never has, also when it is loaded."""
    if not hasattr(subject.part.options, "special_tokens"):
        raise NotApplicable("it has no option special_tokens")
    options = attrs.evolve(subject.part.options, special_tokens=ASKED_FOR)
    subject = Subject(attrs.evolve(subject.part, options=options), subject.scratch)
    tokenizer = build(subject)
    saved(tokenizer, subject.scratch / "saved")
    loaded: Tokenizer = subject.part.blame(subject.part.load().load, subject.scratch / "saved")
    for each, when in ((tokenizer, ""), (loaded, " after loading")):
        ids = [each.special_id(name) for name in ASKED_FOR]
        others = {each.bos_id, each.eos_id} - {None}
        named = f"special_tokens = {list(ASKED_FOR)} have the ids {ids}{when}"
        assert None not in ids, f"{named}: not one each"
        assert len({*ids, *others}) == len(ids) + len(others), f"{named}: not each its own"
        text = "".join(ASKED_FOR)
        assert each.encode_markup(text) == ids, f"{named}, but as markup {each.encode_markup(text)}"
        forged = set(ids) & set(each.encode(text))
        assert not forged, f"{named}, and the text {text!r} has {forged} too"
        assert each.decode(each.encode_markup(text)) == "", f"{named}, and decode to something"


def arrays(subject: Subject) -> None:
    """`encode_arrays`, where there is one, gives the ids of `encode_batch` as arrays of int32."""
    tokenizer = build(subject)
    found = getattr(tokenizer, "encode_arrays", None)
    if found is None:
        raise NotApplicable("it has no encode_arrays")
    texts = [*UNICODE.values(), *prose()[:5]]
    for text, ids, array in zip(texts, tokenizer.encode_batch(texts), found(texts), strict=True):
        assert array.dtype.name == "int32", f"{short(text)}: an array of {array.dtype.name}, not of int32"
        assert array.tolist() == ids, f"{short(text)}: {ids[:8]}... in a list, {array[:8].tolist()}... in an array"
    assert list(found([])) == [], f"no texts gave {found([])!r}"


def broken_bytes(subject: Subject) -> None:
    """Any ids decode to valid text: a broken UTF-8 sequence gives U+FFFD."""
    tokenizer = build(subject)
    for text in ("a\U0010fffd", "a\u9f98", "a\u00e9"):
        ids = tokenizer.encode(text)
        pieces = [valid_text(tokenizer, ids[:end]) for end in range(len(ids) + 1)]
        if pieces[-1] != text or "a" not in pieces:
            continue  # it has no bytes to break
        for end in range(pieces.index("a") + 1, len(ids)):
            wrong = f"the first {end} of the {len(ids)} ids of {text!r} decode to {pieces[end]!r}"
            assert REPLACEMENT in pieces[end], f"{wrong}, where U+FFFD must stand for the broken character"
    draw = random.Random(0)
    for _ in range(100):
        valid_text(tokenizer, [draw.randrange(tokenizer.vocab_size) for _ in range(8)])


def streaming(subject: Subject) -> None:
    """Text shown as its ids come is the text of all of them."""
    tokenizer = build(subject)
    for text in (*UNICODE.values(), prose()[0]):
        ids = tokenizer.encode(text)[:2000]
        whole, streamed = tokenizer.decode(ids), "".join(stream_text(tokenizer, iter(ids)))
        assert streamed == whole, f"{short(text)} streamed: {differ(whole, streamed)}"


def save_and_load(subject: Subject) -> None:
    """What is loaded gives the same ids and texts, from the saved folder alone, wherever it was moved to."""
    subject = own_copy(subject)
    tokenizer = build(subject)
    written, moved, again = (subject.scratch / name for name in ("written", "moved", "again"))
    first = saved(tokenizer, written)
    assert first, "save wrote nothing into the folder"
    shutil.move(written, moved)
    shutil.rmtree(subject.scratch / SOURCE, ignore_errors=True)
    loaded: Tokenizer = subject.part.blame(subject.part.load().load, moved)
    for name in ("vocab_size", "bos_id", "eos_id"):
        before, after = getattr(tokenizer, name), getattr(loaded, name)
        assert before == after, f"{name} was {before} and is {after} after loading"
    for text in (*UNICODE.values(), *SPECIAL_NAMES, *prose()[:10]):
        before, after = tokenizer.encode(text), loaded.encode(text)
        assert before == after, f"{short(text)} had the ids {before[:8]}... and has {after[:8]}... after loading"
        assert tokenizer.decode(before) == loaded.decode(before), (
            f"{short(text)}: its ids decode otherwise after loading"
        )
    second = saved(loaded, again)
    assert first == second, f"saved again: {unequal(first, second)}"


def equal_texts_give_an_equal_tokenizer(subject: Subject) -> None:
    """Equal texts give an equal tokenizer: it is saved as the same bytes, in every process."""
    first = saved(build(subject), subject.scratch / "first")
    random.seed(1)
    second = saved(build(subject), subject.scratch / "second")
    assert first == second, f"built twice from the same texts: {unequal(first, second)}"
    folder = subject.scratch / "third"
    folder.mkdir()
    in_another_process(subject, "build_tokenizer", list(prose()), str(folder))
    third = contents(folder)
    assert first == third, f"built in another process, where strings hash otherwise: {unequal(first, third)}"


def texts_come_once(subject: Subject) -> None:
    """The texts may come one by one and only once: an iterator gives the tokenizer that a list gives."""
    streamed = saved(build(subject), subject.scratch / "streamed")
    listed = saved(build(subject, list(prose())), subject.scratch / "listed")
    assert streamed == listed, f"from an iterator and from a list: {unequal(listed, streamed)}"


def vocab_size_is_as_asked(subject: Subject) -> None:
    """There are at most as many ids as the option `vocab_size` asks for."""
    wanted = getattr(subject.part.options, "vocab_size", None)
    if not isinstance(wanted, int):
        raise NotApplicable("no option vocab_size is set")
    tokenizer = build(subject)
    assert tokenizer.vocab_size <= wanted, f"asked for vocab_size = {wanted}, got {tokenizer.vocab_size}"


# --- what the checks share ------------------------------------------------------------------------------------------

SOURCE = "source"
MARKED = re.compile(r"<[^<>\s]{1,40}>|\[[A-Z]{2,10}\]")
MOST_NAMES = 400
ASKED_FOR = ("<|im_start|>", "<|im_end|>", "<think>")


def build(subject: Subject, texts: Iterable[str] | None = None) -> Tokenizer:
    """Build the tokenizer as a run does, from texts that come one by one."""
    made: Tokenizer = subject.part.call(subject.part.load().build, iter(prose()) if texts is None else texts)
    return made


def learns(subject: Subject) -> bool:
    """Return whether the tokenizer looks at the texts."""
    texts = iter(prose())
    build(subject, texts)
    return next(texts, None) != prose()[0]


def own_copy(subject: Subject) -> Subject:
    """Return the subject with a copy of what its option `path` names, so that it can be taken away."""
    path = getattr(subject.part.options, "path", None)
    if path is None or not Path(path).expanduser().exists():
        return subject
    source, copy = Path(path).expanduser(), subject.scratch / SOURCE
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        copy.mkdir()
        copy = copy / source.name
        shutil.copy(source, copy)
    options = attrs.evolve(subject.part.options, path=type(path)(copy))
    return Subject(attrs.evolve(subject.part, options=options), subject.scratch)


def saved(tokenizer: Tokenizer, folder: Path) -> dict[str, bytes]:
    """Save a tokenizer into a new folder and return the bytes of each file."""
    folder.mkdir()
    tokenizer.save(folder)
    return contents(folder)


def unequal(first: dict[str, bytes], second: dict[str, bytes]) -> str:
    """Return which files of two folders differ."""
    return f"{', '.join(sorted({name for name, _ in first.items() ^ second.items()}))} differs"


def names_in(files: dict[str, bytes]) -> list[str]:
    """Return what looks like names of special tokens in the text files of a tokenizer."""
    found: dict[str, None] = {}
    for content in files.values():
        found.update(dict.fromkeys(MARKED.findall(content.decode("utf-8", "ignore"))))
    return list(found)[:MOST_NAMES]


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of bos and eos, those that there are."""
    return [each for each in (tokenizer.bos_id, tokenizer.eos_id) if each is not None]


def back(tokenizer: Tokenizer, text: str) -> str:
    """Encode and decode."""
    return tokenizer.decode(tokenizer.encode(text))


def valid_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Decode, and check that UTF-8 can spell the result."""
    text = tokenizer.decode(ids)
    assert isinstance(text, str), f"the ids {ids} decode to {text!r}, not a str"
    half = next((each for each in text if "\ud800" <= each <= "\udfff"), None)
    assert half is None, f"the ids {ids} decode to {text!r}: half a surrogate pair, which UTF-8 cannot spell"
    return text


CHECKS = (
    round_trip,
    comes_to_rest,
    whole_ids,
    batch,
    nothing,
    specials_are_never_made_from_text,
    specials_say_nothing,
    markup,
    special_tokens_that_are_asked_for,
    arrays,
    broken_bytes,
    streaming,
    save_and_load,
    equal_texts_give_an_equal_tokenizer,
    texts_come_once,
    vocab_size_is_as_asked,
)
