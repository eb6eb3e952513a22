"""The README and the docs, executed: every block marked python or bash, in a copy of what it needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(language, code, id=f"{page.name}-{page.read_text('utf-8')[: match.start()].count(chr(10)) + 1}")
    for page in PAGES
    for match in BLOCK.finditer(page.read_text("utf-8"))
    for language, code in [match.groups()]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("docs")
    for name in ("policies", "graphs", "examples"):
        shutil.copytree(ROOT / name, copy / name)
    return copy


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_the_block_runs(language: str, code: str, folder: Path) -> None:
    if re.search(r"^curl ", code, re.MULTILINE) and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_has_blocks() -> None:
    assert len(BLOCKS) >= 4
