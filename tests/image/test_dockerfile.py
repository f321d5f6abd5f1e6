"""What the Dockerfile says, read as `make image-proof` carries it out; building it is that target's."""

from pathlib import Path

import pytest

from tests.proof.dockerfile import DockerfileError, assignments, parse, words
from tests.proof.image import DOCKERFILE, NOT_IN_PRODUCTION, PACKAGES


def stages() -> dict[str, list[tuple[str, str]]]:
    return {
        name: [(each.name, each.text) for each in stage.instructions]
        for name, stage in parse(DOCKERFILE.read_text(encoding="utf-8")).items()
    }


def test_the_stages_of_the_guide_are_there_and_production_is_what_a_plain_build_makes() -> None:
    parsed = parse(DOCKERFILE.read_text(encoding="utf-8"))
    assert {"development", "testing", "production"} <= set(parsed)
    assert list(parsed)[-1] == "production"
    assert parsed["testing"].base == "development"
    assert parsed["production"].base in PACKAGES, "image-proof has no approximation of this base"


def test_production_runs_as_1001_and_installs_nothing() -> None:
    production = stages()["production"]
    assert ("USER", "1001:1001") in production
    runs = " ".join(text for name, text in production if name == "RUN")
    assert runs
    assert not {"apt-get", "pip", *NOT_IN_PRODUCTION} & set(runs.split())
    copied = [text for name, text in production if name == "COPY"]
    assert copied == ["--from=builder /opt/longwave /opt/longwave"]


def test_the_health_check_has_the_guides_timings_and_follows_the_address() -> None:
    (check,) = [
        each
        for each in parse(DOCKERFILE.read_text(encoding="utf-8"))["production"].instructions
        if each.name == "HEALTHCHECK"
    ]
    for option in ("--interval=30s", "--timeout=10s", "--start-period=40s", "--retries=3"):
        assert option in check.text
    program, _, code = words(check)
    assert program == "python"
    assert "/health" in code
    assert "LONGWAVE_HTTP_ADDRESS" in code
    compile(code, "healthcheck", "exec")


def test_what_is_set_for_settings_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine.config import load_settings  # noqa: PLC0415 - reads the environment of this test alone

    env: dict[str, str] = {}
    for each in parse(DOCKERFILE.read_text(encoding="utf-8"))["production"].instructions:
        if each.name == "ENV":
            env |= assignments(each, env)
    monkeypatch.chdir(tmp_path)
    for name, value in env.items():
        if name.startswith("LONGWAVE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("LONGWAVE_INSECURE", "true")
    monkeypatch.setenv("LONGWAVE_WEBHOOK_BASE_URL", "https://webhooks.example.com")
    assert load_settings().store_file == Path("/var/lib/longwave/longwave.db")


@pytest.mark.parametrize(
    "text",
    [
        "RUN true",
        "FROM a",
        "FROM a AS b\nADD x /y",
        "FROM a AS b\nRUN <<EOF",
        "FROM a AS b\nRUN true \\",
    ],
)
def test_what_the_reader_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse(text)


def test_lines_are_joined_comments_left_out_and_references_taken() -> None:
    parsed = parse("# one\nFROM a AS b\nENV X=1 \\\n    # two\n    Y=$X:2\nRUN one \\\n  && two\n")
    env, run = parsed["b"].instructions
    assert assignments(env, {"X": "1"}) == {"X": "1", "Y": "1:2"}
    assert run.text.split() == ["one", "&&", "two"]
    assert (env.line, run.line) == (3, 6)
