"""Answers: seeded by the question, in its language, worth looking at."""

import base64
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import whole_text
from gateway.simulator.answers import answer, language_of, pieces_of

QUESTIONS = {
    "zh": "你好，请介绍一下你自己",
    "en": "What is a resumable stream?",
    "es": "Hola, ¿qué puedes hacer?",
}


@pytest.mark.parametrize("language", QUESTIONS)
def test_an_answer_has_headings_a_list_a_table_code_an_image_and_three_follow_ups(language: str) -> None:
    said = answer(QUESTIONS[language])
    lines = said.text.split("\n")
    assert sum(line.startswith("## ") for line in lines) >= 4
    assert sum(line.startswith("- ") for line in lines) >= 6
    assert sum(line.startswith("| ") for line in lines) >= 4
    assert said.text.count("```") == 2
    image = said.text.partition("(data:image/png;base64,")[2].partition(")")[0]
    assert base64.b64decode(image, validate=True).startswith(b"\x89PNG\r\n\x1a\n")
    assert len(set(said.follow_ups)) == 3


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("你好", "zh"),
        ("What is 流式?", "zh"),
        ("hello", "en"),
        ("Tell me about streams, please", "en"),
        ("", "en"),
        ("¿Qué es esto?", "es"),
        ("hola", "es"),
        ("Como funciona la red", "es"),
    ],
)
def test_the_question_s_language_is_heard(question: str, language: str) -> None:
    assert language_of(question) == language


def test_the_answer_is_in_the_question_s_language_and_repeats_its_beginning() -> None:
    for language, question in QUESTIONS.items():
        text = answer(question).text
        assert language_of(text.replace("data:image", "")) == language
        assert question in text.partition("\n")[0]
    assert len(answer("x" * 9000).text.partition("\n")[0]) < 200


def test_another_process_gives_the_same_answer() -> None:
    code = f"from gateway.simulator import whole_text; print(ascii(whole_text({QUESTIONS['zh']!r})))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert other.stdout.strip() == ascii(whole_text(QUESTIONS["zh"]))


def test_different_questions_get_different_answers_some_with_reasoning_some_with_a_search() -> None:
    said = [answer(f"question {number}") for number in range(80)]
    # Beyond the heading, which repeats the question.
    assert len({found.text.partition("\n")[2] for found in said}) > 40
    assert 5 < sum(found.reasons for found in said) < 40
    assert 5 < sum(found.looks_up for found in said) < 40


def test_pieces_are_as_small_as_a_model_s_tokens() -> None:
    for question in QUESTIONS.values():
        pieces = [piece for piece in pieces_of(answer(question).text) if not piece.startswith("data:")]
        assert 150 < len(pieces) < 400
        assert max(map(len, pieces)) <= 16
        assert 1.5 < sum(map(len, pieces)) / len(pieces) < 5


@given(st.text())
def test_pieces_join_to_the_text_whatever_it_holds(text: str) -> None:
    assert "".join(pieces_of(text)) == text


@given(st.text(alphabet=st.characters()))
def test_any_question_gets_an_answer(question: str) -> None:
    assert answer(question).text
