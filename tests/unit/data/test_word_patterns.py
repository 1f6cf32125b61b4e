"""What patterns of tokenizers say about blanks, and the same patterns for text of ASCII."""

import re

import pytest
import regex

from xtuner.data.word_patterns import cuts_at_blanks, in_ascii

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS, _CHINESE = r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+"


@pytest.mark.parametrize(
    "patterns", [[GPT2], [LLAMA3], [O200K], [_DIGITS, _CHINESE, DEEPSEEK], [r"\p{N}", GPT2]], ids=str
)
def test_blanks_begin_words_in_the_patterns_of_the_families(patterns):
    assert cuts_at_blanks(patterns)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\p{L}+ \p{L}+|\s+",  # a blank inside
        r"\p{L}+ ?|\s+",  # behind
        r"\p{L}+\s*|\s+",
        r"'s \p{L}+|\p{L}+|\s+",
        r"(?: \p{L}+)+|\s+",
        r"[^\p{L}]+|\s+",  # a set that does not leave blanks out
        r" +\p{L}+|\s+",  # several of them in front: the last but one is inside
        r" {2}\p{L}+|\s+",
        r"\p{L}.|\s+",
        r"\p{L}\W|\s+",
        r"\p{L}\p{Zs}|\s+",
        r"\p{L}[\x00-\x7f]|\s+",
        r"\p{L}[ -~]|\s+",
        r"\p{L}[\t-~]|\s+",
        r"\p{L}+(?= )|\s+",  # looks past the cut
        r"\p{L}+$|\p{L}|\s+",
        r"\p{L}+\b|\s+",
        r"(?<!\s)\p{L}+|\s+",
        r" ?\p{L}+",  # two blanks are in no match
    ],
)
def test_other_patterns_are_not_taken_for_such(pattern):
    assert not cuts_at_blanks([pattern]) and not cuts_at_blanks([pattern, GPT2][:: -1 if pattern[:2] == " ?" else 1])


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3, O200K, DEEPSEEK, _DIGITS])
def test_in_ascii_a_pattern_finds_the_same(pattern):
    text = "".join(map(chr, range(0x20, 0x7F))) * 2 + "It's  12345 of\n\n  them,\t(WELL)MixedCase isn't\r\n it? "
    assert re.findall(in_ascii(pattern), text) == regex.findall(pattern, text)
