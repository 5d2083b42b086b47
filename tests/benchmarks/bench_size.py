"""The longest files and functions, beside the hard limits that `tests/test_layout.py` keeps.

python tests/benchmarks/bench_size.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("extpose", "pipelines", "cluster", "tests")
SHOWN = 10


def main() -> None:
    """Print both tables, and the totals of each folder."""
    files: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        text, name = path.read_text(), str(path.relative_to(ROOT))
        files.append((len(text.splitlines()), name))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((length, f"{name}:{node.lineno} {node.name}"))
    for title, rows in (("files", files), ("functions", functions)):
        print(f"longest {title}, lines")
        for length, name in sorted(rows, reverse=True)[:SHOWN]:
            print(f"{length:>6}  {name}")
    for folder in FOLDERS:
        lines = [length for length, name in files if name.startswith(f"{folder}/")]
        print(f"{folder:<10} {len(lines):>4} files {sum(lines):>6} lines")


if __name__ == "__main__":
    main()
