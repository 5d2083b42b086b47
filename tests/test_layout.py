"""The shape of the repository, kept by tests: what may grow, what may load what, what is where."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("extpose", "pipelines", "cluster")
MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 400
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".sbatch", ".json", ".txt", ".cfg", ""}
UNPICKLERS = {"extpose/pickles.py", "extpose/model/torch_file.py"}
"""They load foreign checkpoints through unpicklers that know tensors only."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def texts() -> Iterator[tuple[str, str]]:
    """Path from the root and content of every text file of the project."""
    folders = [*PACKAGES, "tests", "docs", ".ci", ".github"]
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    for path in sorted([*ROOT.iterdir(), *paths]):
        if (
            path.name != ".git"
            and path.is_file()
            and path.suffix in TEXT_SUFFIXES
            and "__pycache__" not in path.parts
        ):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def imports(path: Path) -> set[Path]:
    """The project's own files that a file imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    stems = {name.replace(".", "/") for name in names}
    candidates = {ROOT / f"{stem}{end}" for stem in stems for end in (".py", "/__init__.py")}
    return {path for path in candidates if path.exists()}


def closure(path: Path) -> set[Path]:
    seen: set[Path] = set()
    todo = {path}
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= imports(file) - seen
    return seen


def test_model_reads_in_one_sitting() -> None:
    files = closure(ROOT / "extpose/model/extpose.py")
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert len(files) <= 8, lengths
    assert sum(lengths.values()) <= 1000, lengths
    assert "extpose/model/vit.py" in lengths, "the closure is not followed"


def shard_side() -> list[str]:
    """The modules that the import contract keeps free of torch, packages with all they hold."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["name"] == "the shard side never loads torch"]
    modules: list[str] = []
    for name in contract["source_modules"]:
        path = ROOT / name.replace(".", "/")
        files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
        stems = [file.relative_to(ROOT).with_suffix("").as_posix() for file in files]
        modules += [stem.removesuffix("/__init__").replace("/", ".") for stem in stems]
    return sorted(modules)


def test_shard_side_does_not_load_torch() -> None:
    """Import rules see the lines of our files; this sees what really is loaded."""
    modules = shard_side()
    assert "extpose.schema" in modules
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} loads torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


FILE_NAME = re.compile(r"[\w./-]*(/|\.(py|md|toml|yaml|sbatch|npz))|Makefile|LICENSE|\.ci/run")


def listed(tree: str) -> set[str]:
    """Paths of an indented tree; a line is a folder or files, then words that say what it is."""
    found: set[str] = set()
    stack: list[tuple[int, str]] = []
    for line in re.sub("[│├└─]", " ", tree).splitlines():
        words = list(itertools.takewhile(FILE_NAME.fullmatch, line.split()))
        if not words:
            continue
        indent = len(line) - len(line.lstrip())
        while stack and stack[-1][0] >= indent:
            stack.pop()
        parent = stack[-1][1] if stack else ""
        if words[0].endswith("/"):
            parent += words.pop(0)
            found.add(parent)
            stack.append((indent, parent))
        found |= {parent + word for word in words}
    return found


def test_tree_parser() -> None:
    tree = "a/   the a\n  b.py c.py  two\n  d/  e.py\nMakefile x\nwords only\n"
    assert listed(tree) == {"a/", "a/b.py", "a/c.py", "a/d/", "a/d/e.py", "Makefile"}


def test_readme_tree_equals_disk() -> None:
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    trees = [block for block in blocks if re.search(r"^(├── )?extpose/", block, re.M)]
    assert trees, "README.md has no fenced block with the tree"
    named = listed(trees[0])
    assert not {name for name in named if not (ROOT / name).exists()}, "in README.md, not on disk"
    expected = {f"{folder}/" for folder in (*PACKAGES, "tests", "docs")}
    for path in (ROOT / "extpose").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            expected.add(f"extpose/{path.name}")
        elif path.is_dir() and any(path.glob("*.py")):
            expected.add(f"extpose/{path.name}/")
    assert not expected - named, "on disk, not in README.md"


FORBIDDEN = {
    "a path of one machine": r"/(roo[t]|wor[k]|far[m]|Users)/",
    "a thing left undone": r"\b(TOD[O]|FIXM[E]|XX[X])\b|NotImplemented[E]rror",
    "a test switched off": r"pytest\.mark\.ski[p]\b",
    "a debugger": r"breakpoint[(]\)|\bpd[b]\.set_trace",
    "a swallowed error": r"except( Exception)?:\s*pas[s]\b",
    "an index of packages": r"pypi\.(org|python)|npmj[s]\.(com|org)/(?!package)|registry[.]npm",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden_in_the_files(what: str) -> None:
    found = [
        f"{name}: {match.group()!r}"
        for name, text in texts()
        for match in re.finditer(FORBIDDEN[what], text)
    ]
    assert not found, f"{what}: {found}"


def test_untrusted_files_cannot_run_code() -> None:
    pattern = r"\bpickle\.(load|loads|Unpickler)\b|allow_pickle=True|weights_only=False"
    files = {
        path.relative_to(ROOT).as_posix()
        for path in sources(*PACKAGES)
        if re.search(pattern, path.read_text())
    }
    assert files <= UNPICKLERS


def test_functions_and_files_stay_short() -> None:
    too_long = []
    for path in sources(*PACKAGES, "tests"):
        name, text = path.relative_to(ROOT), path.read_text()
        length = len(text.splitlines())
        if length > MAX_FILE_LINES and name.parts[0] != "tests":
            too_long.append(f"{name}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    too_long.append(f"{name}:{node.lineno} {node.name}: {length} lines")
    assert not too_long


def test_numbers_to_compare_with_say_where_they_are_from() -> None:
    readme = (ROOT / "tests/data/README.md").read_text()
    for path in (ROOT / "tests/data").iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme, path.name
        assert path.stat().st_size < 400_000, path.name


def test_decisions_are_numbered() -> None:
    paths = sorted((ROOT / "docs/decisions").iterdir())
    assert paths
    for number, path in enumerate(paths, start=1):
        assert re.fullmatch(rf"{number:04d}-[a-z0-9-]+\.md", path.name), path.name
        text = path.read_text()
        assert text.startswith(f"# {number:04d}. "), path.name
        for section in ("Context", "Decision", "Rejected", "Consequences"):
            assert f"\n## {section}\n" in text, f"{path.name} lacks {section}"
