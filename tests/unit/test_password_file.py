"""A password from a file: what is taken off, what is refused with what to do, and that no refusal shows it."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from engine.errors import ConfigError
from engine.password_file import BYTES_MAX, password

VARIABLE = "LONGWAVE_REDIS_PASSWORD"
SECRET = "spoken softly"


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        password(VARIABLE, None, path)
    [problem] = refused.value.problems
    assert problem.startswith(f"{VARIABLE}_FILE {path}: ")
    assert SECRET not in problem
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return problem.removeprefix(f"{VARIABLE}_FILE {path}: ")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_final_newline_is_no_part_of_it(tmp_path: Path, end: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(f" {SECRET} ü {end}".encode())
    assert password(VARIABLE, None, path) == f" {SECRET} ü "


def test_a_mounted_secret_is_a_link_that_others_may_read(tmp_path: Path) -> None:
    """Kubernetes: a link into a folder that is exchanged as a whole, mode 0644 unless it is set."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data/password").write_text(SECRET)
    (tmp_path / "..data/password").chmod(0o644)
    (tmp_path / "password").symlink_to("..data/password")
    assert password(VARIABLE, None, tmp_path / "password") == SECRET


def test_without_a_file_the_setting_counts() -> None:
    assert password(VARIABLE, SecretStr(SECRET), None) == SECRET
    assert password(VARIABLE, None, None) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty: write the password into it"),
        (b"\n", "it is empty: write the password into it"),
        (f"{SECRET}\nuser".encode(), "it has more than one line: name the file that holds the password alone"),
        (f"{SECRET}\n\n".encode(), "it has more than one line: name the file that holds the password alone"),
        (f"{SECRET}\0".encode(), "it holds a NUL character: write the password as text"),
        (SECRET.encode() + b"\xff", "it is not UTF-8: write the password as text"),
        (
            SECRET.encode() * BYTES_MAX,
            f"it has more than {BYTES_MAX} bytes: name the file that holds the password alone",
        ),
    ],
)
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    assert refusal(path) == words


def test_a_file_that_is_not_there_or_none_is_named(tmp_path: Path) -> None:
    advice = f"mount it there, or set {VARIABLE}_FILE to where it is"
    assert refusal(tmp_path / "absent") == f"No such file or directory: {advice}"
    assert refusal(tmp_path) == f"Is a directory: {advice}"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shut(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, as whom tests may run, is refused nothing.
    monkeypatch.setattr(Path, "open", shut)
    assert refusal(tmp_path / "password") == "Permission denied: let the user that runs longwave read it"
