"""Preference files: every format that is read, every way to be malformed, and text made safe."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfbench.data import TextPair, read_pairs, shared_prompt
from rlhfbench.errors import InputError
from rlhfbench.text import Hasher, sanitize, words

GOOD = {"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No idea."}


def write(path: Path, *lines: Any) -> Path:
    """Lines as JSON, or as they are if they are strings."""
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8")
    return path


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


FORMATS: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "explicit": (GOOD, ("Why?", "Because it is so.", "No idea.")),
    "an empty prompt": ({**GOOD, "prompt": ""}, ("", "Because it is so.", "No idea.")),
    "other fields": (
        {**GOOD, "meta": {"a": [1]}, "score_chosen": None},
        ("Why?", "Because it is so.", "No idea."),
    ),
    "implicit": (
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        ("The sky is", " blue.", " black."),
    ),
    "implicit, nothing shared": ({"chosen": "blue", "rejected": "black"}, ("", "blue", "black")),
    "implicit, one begins with the other": (
        {"chosen": "It is so", "rejected": "It is so indeed"},
        ("It is", " so", " so indeed"),
    ),
    "hh-rlhf": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: The sun",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: The moon",
        },
        ("\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:", " The sun", " The moon"),
    ),
    "conversation": (
        {
            "prompt": [message("system", "Be brief."), message("user", "Why?")],
            "chosen": [message("assistant", "So.")],
            "rejected": [message("assistant", "No.")],
        },
        ("system: Be brief.\n\nuser: Why?", "So.", "No."),
    ),
    "conversation, implicit": (
        {
            "chosen": [message("user", "Why?"), message("assistant", "So.")],
            "rejected": [message("user", "Why?"), message("assistant", "No.")],
        },
        ("user: Why?", "So.", "No."),
    ),
    "conversation beside its prompt as a string": (
        {
            "prompt": "Why?",
            "chosen": [message("user", "Why?"), message("assistant", "So.")],
            "rejected": [message("user", "Why?"), message("assistant", "No.")],
        },
        ("Why?", "So.", "No."),
    ),
    "replies of several turns": (
        {
            "prompt": [message("user", "Why?")],
            "chosen": [message("assistant", "So."), message("user", "Oh"), message("assistant", "Yes.")],
            "rejected": [message("assistant", "No.")],
        },
        ("user: Why?", "assistant: So.\n\nuser: Oh\n\nassistant: Yes.", "No."),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    record, expected = FORMATS[name]
    file = read_pairs(write(tmp_path / "f.jsonl", record))
    assert file.pairs == [TextPair(*expected, 1)]
    assert file.skipped == []


def test_gzip_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    raw = b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line + b"\r\n\n"
    plain, zipped = tmp_path / "f.jsonl", tmp_path / "f.jsonl.gz"
    plain.write_bytes(raw)
    # several members, as `cat a.gz b.gz` makes them
    zipped.write_bytes(gzip.compress(raw[:20]) + gzip.compress(raw[20:]))
    assert [pair.line for pair in read_pairs(plain).pairs] == [1, 3]
    assert read_pairs(zipped).pairs == read_pairs(plain).pairs
    assert read_pairs(zipped).sha256 != read_pairs(plain).sha256
    last = tmp_path / "g.jsonl"
    last.write_bytes(line)  # no end of line at all
    assert len(read_pairs(last).pairs) == 1


def test_line_separators_inside_strings_end_no_line(tmp_path: Path) -> None:
    record = json.dumps({**GOOD, "chosen": "a\u2028b\x85c\x0bd"}, ensure_ascii=False)
    assert len(read_pairs(write(tmp_path / "f.jsonl", record.replace("\x0b", "\\u000b"))).pairs) == 1


MALFORMED: dict[str, tuple[list[Any], int, str]] = {
    "not JSON": ([GOOD, "chosen: yes", GOOD], 2, r"not JSON at column 1"),
    "truncated": ([GOOD, '{"prompt": "Why?", "chosen": "Bec'], 2, "not JSON|truncated"),
    "a list": ([[1, 2]], 1, "is a list; a JSON object"),
    "a string": (['"text"'], 1, "is a string; a JSON object"),
    "null": (["null"], 1, "is null; a JSON object"),
    "no chosen": (
        [GOOD, {"prompt": "a", "rejected": "b"}],
        2,
        "field 'chosen': missing; the fields are: prompt, rejected",
    ),
    "no rejected": ([{"chosen": "b"}], 1, "field 'rejected': missing"),
    "no fields": (["{}"], 1, "field 'chosen': missing; the fields are: none"),
    "a number": ([{**GOOD, "chosen": 3}], 1, "field 'chosen': is a number; a string or"),
    "a boolean": ([{**GOOD, "rejected": True}], 1, "field 'rejected': is true or false"),
    "null reply": ([{**GOOD, "rejected": None}], 1, "field 'rejected': is null"),
    "null prompt": ([{**GOOD, "prompt": None}], 1, "field 'prompt': is null"),
    "an object for a prompt": ([{**GOOD, "prompt": {}}], 1, "field 'prompt': is an object"),
    "two kinds": ([{**GOOD, "rejected": []}], 1, "field 'rejected': is a list, but chosen is a string"),
    "a message that is none": ([{"chosen": ["a"], "rejected": []}], 1, r"field 'chosen\[0\]': is a string"),
    "no role": ([{"chosen": [{"content": "a"}], "rejected": []}], 1, r"field 'chosen\[0\].role': missing"),
    "content of parts": (
        [{"chosen": [], "rejected": [{"role": "a", "content": [{"type": "image"}]}]}],
        1,
        r"field 'rejected\[0\].content': is a list",
    ),
    "half a surrogate": (['{"chosen": "\\ud800", "rejected": "b"}'], 1, r"field 'chosen': .*\\ud800"),
    "a huge number": ([GOOD, '{"chosen": ' + "9" * 5000 + "}"], 2, "too many digits"),
    "deep": (['{"chosen": ' + "[" * 100_000 + "]" * 100_000 + "}"], 1, "nested too deeply"),
    "an array over lines": (["[", GOOD, "]"], 1, "not JSON"),
    "escape codes in a field name": (['{"\\u001b[31m\\n": 1}'], 1, r"fields are: \\x1b\[31m\\n$"),
    "no pair that says something": (
        [{**GOOD, "chosen": " "}, {**GOOD, "chosen": "No idea."}],
        1,
        "no usable pair",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    lines, number, expected = MALFORMED[name]
    path = write(tmp_path / "f.jsonl", *lines)
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert str(path) in text
    assert f"line {number}" in text
    assert re.search(expected, text), text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode() + b"\n"
    zipped = gzip.compress(good * 50_000)
    cases: dict[str, tuple[bytes | None, str]] = {
        "missing.jsonl": (None, "no such file"),
        "empty.jsonl": (b"", "is empty"),
        "blank.jsonl": (b"\n \n\n", "is empty"),
        "empty.jsonl.gz": (gzip.compress(b""), "is empty"),
        "truncated.jsonl": (good + good[:30], "line 2: truncated: the file ends inside this JSON object"),
        "key.jsonl": (good + b'{"chosen"', "line 2: truncated"),
        "truncated.jsonl.gz": (zipped[: len(zipped) // 2], r"truncated gzip data, which ends in line \d+"),
        "damaged.jsonl.gz": (zipped[:40] + b"\xff" * 60 + zipped[100:], r"damaged gzip data near line \d+"),
        "plain.jsonl.gz": (good, "not gzipped"),
        "latin.jsonl": (good + b'{"chosen": "caf\xe9"}', r"line 2: byte 16 \(0xe9\) is not UTF-8"),
        "bom-latin.jsonl": (b"\xef\xbb\xbf\xe9", r"line 1: byte 4 \(0xe9\) is not UTF-8"),
        "utf16.jsonl": (json.dumps(GOOD).encode("utf-16"), "looks like UTF-16"),
    }
    for name, (content, expected) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=expected) as caught:
            read_pairs(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for odd in (tmp_path, tmp_path / "a\nb", f"{tmp_path}/nul\0"):
        with pytest.raises(InputError) as caught:
            read_pairs(odd)
        assert "\n" not in str(caught.value)


def test_pairs_that_say_nothing_are_left_out_and_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.jsonl",
        GOOD,
        {**GOOD, "chosen": " \n"},
        {**GOOD, "rejected": ""},
        {**GOOD, "chosen": " No idea. "},
    )
    file = read_pairs(path)
    assert len(file.pairs) == 1
    assert file.skipped == [(2, "empty chosen reply"), (3, "empty rejected reply"), (4, "identical replies")]
    assert file.skipped_text(1) == "3 pairs left out: line 2 (empty chosen reply) and 2 more"
    with pytest.raises(InputError, match=r"line 2: empty chosen reply; .*--strict"):
        read_pairs(path, strict=True)


@given(st.text(), st.text(), st.text())
def test_whatever_is_shared_is_put_together_again(head: str, a: str, b: str) -> None:
    cut = shared_prompt(head + a, head + b)
    assert (head + a)[:cut] == (head + b)[:cut]
    assert cut <= min(len(head + a), len(head + b))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "role", "content"]), x)
        ),
    )
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "f.jsonl"
    path.write_text(json.dumps(value) + "\n", "utf-8")
    try:
        read_pairs(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_real_files(data_dir: Path) -> None:
    for name, rows in (("hh_harmless", 1819), ("ukp_convarg", 8401), ("arenabench_gpt4", 1080)):
        file = read_pairs(data_dir / f"{name}.train.jsonl", strict=True)
        assert len(file.pairs) == rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t PANIC: it's 42!", ["don't", "panic", ":", "it's", "42", "!"]),
        ("naïve café—déjà vu", ["naïve", "café", "—", "déjà", "vu"]),
        ("'quoted' rock'n'roll", ["'", "quoted", "'", "rock'n'roll"]),
        (" \n\t", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_hashing_is_the_same_everywhere_and_remembers_words() -> None:
    hasher = Hasher(16)
    bag = hasher.bag(["good good bad", "", "bad"])
    assert bag.indptr.tolist() == [0, 3, 3, 4]
    assert bag.indices[0] == bag.indices[1]
    assert hasher.bag(["123456789"]).indices[0] == 0xCBF43926 & 0xFFFF  # CRC-32's own check value
    assert hasher.names()[int(bag.indices[2])] == "bad"
    tiny = Hasher(1)
    tiny.bag(["a b c d"])
    assert sorted("|".join(tiny.names().values()).split("|")) == ["a", "b", "c", "d"]
    pairs = Hasher(16, bigrams=True).bag(["a b c"])
    assert len(pairs.indices) == 5
    with pytest.raises(ValueError, match="bits"):
        Hasher(0)


@given(st.text())
def test_safe_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    safe = sanitize(text)
    assert all(char.isprintable() or char in "\n\t" or char.isspace() for char in safe)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", safe)
    assert sanitize(safe) == safe
    if text.isascii() and text.isprintable():
        assert safe == text
