"""Lists the settings in force, for `longwave config`, and all settings there are, for the documentation.

It never shows a secret, and it validates nothing.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from engine.config import FILE_VARIABLE, Settings, variable

HIDDEN: Final = "(hidden)"
UNSET: Final = "(unset)"


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of `longwave config`."""

    name: str
    """The environment variable."""
    field: str
    """The key in the file."""
    value: str
    """What is in force; `(hidden)` for a secret, `(unset)` for nothing."""
    source: str
    """`default`, `environment` or `file`."""
    default: str
    """What is in force without it."""
    description: str
    """Meaning, unit and reason."""


def describe(settings: Settings) -> list[Setting]:
    """Every setting in the order of its declaration."""
    return [
        Setting(
            variable(field),
            field,
            _shown(getattr(settings, field)),
            settings.source_of(field),
            _shown(info.default),
            info.description or "",
        )
        for field, info in Settings.model_fields.items()
    ]


def reference_markdown() -> str:
    """The table of all settings for the documentation, made from the same declarations."""
    lines = [
        f"Each setting is an environment variable, or a key of the TOML file that `{FILE_VARIABLE}` names: the part",
        "after `LONGWAVE_`, in lower case. The environment wins. A name that is not listed is refused.",
        "",
        "| variable | default | bounds | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for field, info in Settings.model_fields.items():
        lines.append(f"| `{variable(field)}` | `{_shown(info.default)}` | {_bounds(info)} | {info.description} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if value is None or value in {"", ()}:
        return UNSET
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _bounds(info: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(rule, name):,}"
        for rule in info.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    choices = getattr(info.annotation, "__args__", ()) if "Literal" in str(info.annotation) else ()
    return ", ".join(found or [str(choice) for choice in choices])
