"""Every problem can be said to a person."""

import re
from typing import get_args

import pytest

from gateway.errors import Code, Language
from gateway.sentences import sentence, title

LANGUAGES: tuple[Language, ...] = get_args(Language)
CHINESE = re.compile("[\u4e00-\u9fff]")
INTERNALS = re.compile(r"coze|upstream|gateway|http|sql|redis|token|server|exception|traceback|null", re.IGNORECASE)


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_code_has_a_finished_sentence_in_every_language(code: Code, language: Language) -> None:
    text = sentence(code, language)
    assert text.endswith("。" if language == "zh" else ".")
    assert text == text.strip()
    assert bool(CHINESE.search(text)) is (language == "zh")
    assert len(text) <= 200


@pytest.mark.parametrize("code", list(Code))
def test_no_sentence_speaks_of_what_is_behind_the_service(code: Code) -> None:
    for text in (*(sentence(code, language) for language in LANGUAGES), title(code)):
        assert not INTERNALS.search(text)
        assert code.value not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_codes_share_a_sentence_or_a_title(language: Language) -> None:
    assert len({sentence(code, language) for code in Code}) == len(Code)
    assert len({title(code) for code in Code}) == len(Code)
