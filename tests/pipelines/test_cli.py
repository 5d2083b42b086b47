"""Exit codes and messages of the command line; nothing heavy is run."""

import pytest

import pipelines.doctor
from extpose import __version__
from extpose.errors import ExtPoseError
from pipelines import cli


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"extpose {__version__}\n"


def test_no_verb_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.VERBS)


@pytest.mark.parametrize(
    ("given", "hint"), [("trian", "Did you mean 'train'?"), ("xyzzy", "Choose from: demo, doctor")]
)
def test_unknown_verb(given: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"unknown verb '{given}'" in captured.err
    assert hint in captured.err


def test_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "body-vidoe"])
    assert caught.value.code == 2
    assert "unknown recipe 'body-vidoe'. Did you mean 'body-video'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["doctor", "--fetsh"], "--fetsh"),
        (["predict", "a.mp4", "--body", "feet"], "feet"),
        (["predict", "--checkpoint", "a.safetensors"], "no video"),
        (["inspect"], "no shard"),
        (["evaluate", "--checkpoint", "a", "--data", "b", "--batch", "two"], "two"),
        (["train", "tiny", "--engine.precision", "fp8"], "fp8"),
        (["train", "tiny", "--engine.precison", "bf16"], "--engine.precison"),
        (["submit", "--address", "http://head:8265"], "unknown verb"),
    ],
)
def test_usage_errors_are_named(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_shows_the_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    plain = "".join(c for c in capsys.readouterr().out if c not in "│\n ")
    assert cli.VERBS[name].example.replace(" ", "") in plain


def run_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(**_: object) -> int:
        raise error

    monkeypatch.setattr(pipelines.doctor, "doctor", fail)
    return cli.main(["doctor"])


def test_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(ExtPoseError("a.tar: broken"), monkeypatch) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "extpose doctor: a.tar: broken\n")


def test_a_missing_package_comes_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(ModuleNotFoundError("no", name="ray.data"), monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "'ray.data' is not installed" in line
    assert "pip install 'extpose[cluster]'" in line


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("no", name="extpose.gone"), ZeroDivisionError()]
)
def test_our_own_mistakes_are_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        run_with(error, monkeypatch)
