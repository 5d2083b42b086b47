"""Every `extpose` command in the documents, the cluster files and the help is one that parses."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipelines import cli, parsing

ROOT = Path(__file__).parents[1]


class ParsedError(Exception):
    """Raised instead of running the verb."""


def fenced_commands(path: Path) -> list[str]:
    """The lines of shell blocks that call `extpose`, continued lines joined."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", path.read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    call = re.compile(r"(?:\w+=\S* )*(?:\S*/)?extpose\s+(.+)$")
    found = [call.match(line.split(" #")[0]) for line in lines]
    return [match.group(1) for match in found if match]


def documents() -> list[Path]:
    folders = [ROOT, ROOT / "docs", ROOT / "cluster"]
    return sorted(path for folder in folders for path in folder.glob("*.md"))


def all_commands() -> list[tuple[str, str]]:
    commands = [
        (path.relative_to(ROOT).as_posix(), command)
        for path in documents()
        for command in fenced_commands(path)
    ]
    commands += [
        (f"help of {name}", verb.example.removeprefix("extpose "))
        for name, verb in cli.VERBS.items()
    ]
    for path in sorted((ROOT / "cluster").glob("rayjob-*.yaml")):
        entrypoint = yaml.safe_load(path.read_text())["spec"]["entrypoint"]
        commands.append((path.name, entrypoint.removeprefix("extpose ")))
    return commands


def check_command(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """Parse as the command line does, and stop where it would run."""
    original = parsing.parse

    def parse_only(*args: object, **kwargs: object) -> None:
        original(*args, **kwargs)  # type: ignore[arg-type]
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(parsing, "parse", parse_only)
        with pytest.raises(ParsedError):
            assert cli.main(words) == 0
    if words[0] == "submit":
        check_command(monkeypatch, words[words.index("--") + 1 :])


@pytest.mark.parametrize(("where", "command"), all_commands())
def test_command_parses(where: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    if words[0] in ("--version", "--help"):
        assert cli.main(words) == 0
    else:
        check_command(monkeypatch, words)


def test_a_wrong_option_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        check_command(monkeypatch, ["doctor", "--fetsh"])
