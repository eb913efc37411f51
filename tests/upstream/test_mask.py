import json

import pytest

from gateway.upstream.mask import MaskedLog, mask
from tests.upstream.servers import SAMPLES

SECRETS = [
    "pat_AbCd1234efGH",
    "sat_AbCd1234-x_y",
    "czs_AbCd1234efGH",
    "czu_AbCd1234efGH",
    "cztei_AbCd1234efGH",
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxIn0.c2lnbmF0dXJl",
    "li.lei+x@mail.example.com",
    "13800138000",
    "138 0013 8000",
    "+86 138-0013-8000",
    "+14155550123",
    "+1 (415) 555-0123",
    "(415) 555-0123",
    "415-555-0123",
    "021-12345678",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ['{"x":"%s"}', "我的：%s。", "%s", "a %s b", "data:%s\n", "(%s)"])
def test_secrets_and_personal_data_are_masked_wherever_they_stand(secret: str, around: str) -> None:
    text = mask((around % secret).encode())
    assert "***" in text
    assert not any(part in text for part in secret.split(" ") if len(part) > 4)


def test_a_bearer_token_is_masked_whatever_it_looks_like() -> None:
    assert "s3cr3t" not in mask(b"Authorization: Bearer s3cr3t-token\r\n")


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.sse")), ids=lambda path: path.name)
def test_ids_and_times_stay_readable(path: object) -> None:
    data: bytes = path.read_bytes()  # type: ignore[attr-defined]
    assert mask(data) == data.decode()


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert mask(b"a\xff\xe6\xad") == "a\\xff\\xe6\\xad"


@pytest.mark.timeout(5)
def test_a_large_text_without_a_match_is_masked_fast() -> None:
    for text in (b"a" * 200_000, b"1" * 200_000, b"+" * 200_000, b"a.@" * 60_000, b"1-" * 100_000, b"Bearer " * 30_000):
        mask(text)


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_a_secret_cut_by_reads_is_masked_too(size: int) -> None:
    written: list[str] = []
    log = MaskedLog(written.append)
    text = b"data:" + json.dumps({"token": "pat_AbCd1234efGH"}).encode() + b"\n\nrest 13800138000"
    for i in range(0, len(text), size):
        log.received(text[i : i + size])
    log.close()
    log.close()
    assert "".join(written) == 'data:{"token": "***"}\n\nrest ***'


LONG = 200_000


@pytest.mark.parametrize(
    "secret", ["pat_AbCd1234efGH", "13800138000", "li.lei@mail.example.com", '"token":"AbCd1234ef"']
)
@pytest.mark.parametrize("read", [1000, 65_537, LONG])
def test_nothing_that_lies_across_the_cut_of_a_long_line_is_shown(secret: str, read: int) -> None:
    for before in range(64 * 1024 - 30, 64 * 1024 + 10, 7):
        written: list[str] = []
        log = MaskedLog(written.append)
        text = (b"x" * (before - 1) + b" " + secret.encode() + b" ").ljust(LONG, b"y") + b" 13800138000\nnext\n"
        for i in range(0, len(text), read):
            log.received(text[i : i + read])
        shown = "".join(written)
        assert shown.startswith("xxx")
        assert shown.endswith("next\n")
        for part in ("AbC", "1234", "13800", "lei", "example"):
            assert part not in shown


def test_of_a_line_without_end_only_the_beginning_is_logged_and_nothing_is_kept() -> None:
    written: list[str] = []
    log = MaskedLog(written.append)
    for _ in range(100):
        log.received(b"x" * 10_000)
    assert len(log._held) == 0
    assert [len(text) for text in written] == [64 * 1024 - 1024]
    log.close()
    log.close()
    assert len(written) == 2
    assert str(1_000_000 - 64 * 1024) in written[1]
