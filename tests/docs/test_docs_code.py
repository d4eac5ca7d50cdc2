"""The documentation: marked code blocks run, and relative links lead somewhere.

A block runs if the line before it is `<!-- run -->`. The marked blocks of a file run in their order
in one folder: Python in one namespace, bash as typed, but for commands that need torch: these run in
this process, which has it at hand.
"""

import logging
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeseg.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.usefixtures("operators_listed_once"),
]

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "edgeseg", "export", "runtime", "benchmarks")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md"))]
)
MARK = "<!-- run -->"
BLOCK = re.compile(
    r"^(?P<mark><!-- run -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A marked piece of code and where it stands."""

    document: Path
    line: int
    language: str
    code: str


def marked_blocks(document):
    text = document.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match["mark"]:
            line = text.count("\n", 0, match.start("code")) + 1
            yield Block(document, line, match["language"], match["code"])


def name(document):
    return document.relative_to(ROOT).as_posix()


BLOCKS = {document: list(marked_blocks(document)) for document in DOCUMENTS}


@pytest.fixture
def logging_as_it_was():
    """Take back what a block chooses of the logs, for the tests that follow in this process."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {logger: logger.level for logger in _loggers()}
    yield
    root.handlers[:] = handlers
    for logger in _loggers():
        logger.setLevel(levels.get(logger, logging.NOTSET))


def _loggers():
    known = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(each for each in known if isinstance(each, logging.Logger))]


@pytest.mark.slow
@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if BLOCKS[d]], ids=name)
def test_marked_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    namespace = {"__name__": "__main__"}
    for block in BLOCKS[document]:
        if block.language == "bash":
            run_commands(block) if is_ours(block) else run_bash(block)
        else:
            source = "\n" * (block.line - 1) + block.code  # so that a traceback tells the line
            exec(compile(source, str(document), "exec"), namespace)


def is_ours(block):
    """Whether a block holds commands that need torch alone; a shell takes seconds to start each."""
    lines = block.code.strip().splitlines()
    return all(re.match("edgeseg (export|bench|compare) ", line) for line in lines)


def run_commands(block):
    for line in block.code.strip().splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0, f"{name(block.document)}: {line}"


def run_bash(block):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    output = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, f"{name(block.document)}:{block.line}: {output}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_a_marked_block_is_bash_or_python(document):
    assert {block.language for block in BLOCKS[document]} <= {"bash", "python"}
    text = document.read_text(encoding="utf-8")
    assert text.count(f"\n{MARK}\n") == len(BLOCKS[document]), "a mark stands before no block"


def test_the_tour_of_the_readme_is_run():
    languages = [block.language for block in BLOCKS[ROOT / "README.md"]]
    assert languages.count("bash") >= 1
    assert languages.count("python") >= 1


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_lead_to_files(document):
    text = without_code(document.read_text(encoding="utf-8"))
    targets = [match["target"] for match in LINK.finditer(text)]
    local = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in local if not (document.parent / t).exists()] == []


def test_every_picture_of_the_documentation_is_small():
    pictures = [p for kind in ("png", "jpg") for p in (ROOT / "docs").rglob(f"*.{kind}")]
    assert pictures
    assert [p.name for p in pictures if p.stat().st_size > 150_000] == []
