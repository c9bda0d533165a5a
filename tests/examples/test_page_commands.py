"""The shell commands of README.md, docs/, results/ and the other pages: all parsed by the program
that they start, with the configurations that they name; the quickstart's are run."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import runpy
import shlex
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import tyro
from test_docs import SMALL, python_blocks
from tiny import raw_photos

from stacked_ram.cli import main as cli
from stacked_ram.cli import prepare, viz
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [
        ROOT / "README.md", ROOT / "datasets/README.md", ROOT / "examples/README.md",
        ROOT / "configs/README.md", ROOT / "benchmarks/README.md", ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md"),
    ]
)  # fmt: skip
# Programs that are not ours, and why their arguments are not parsed here.
OTHERS = {
    "vips": "libvips's own command",
    "mkdocs": "a package of requirements-docs.txt; .ci/run builds the site",
    ".": "activates an environment",
}
# Scripts that take more than the commands' parsers, and where they are run.
SCRIPTS = {
    "examples/": "tests/examples/test_examples.py",
    "benchmarks/": "tests/test_benchmarks.py, or hours",
    "results/": "reads the runs of record",
    "docs/pictures.py": "needs the run of the demo, minutes",
    ".ci/licences.py": "needs every package, optional ones too",
    ".ci/notebooks.py": ".ci/run runs it",
}
# The commands of an installation, by the scripts of a clone that do the same.
INSTALLED = {
    "stacked-ram": "main.py",
    "stacked-ram-prepare": "prepare_data.py",
    "stacked-ram-viz": "viz.py",
}
# Words that stand for a user's own.
PLACEHOLDERS = {
    " [options]": "",
    "PRESET": "flowers17_lite0",
    "--download NAME": "--download mnist",
    "ROW --cases N --seed S": "ROW --cases 1 --seed 0",
}
OPTIONAL = r"\[(-[^\]]+)\]"  # [--quick] is taken as given
LOOP = r"for (\w+) in ([^;\n]+); do"
PROGRAMS = r"(?:python3?|torchrun|stacked-ram(?:-prepare|-viz)?|vips|mkdocs|pip)"


def commands_of(page: str) -> list[str]:
    """The commands of a page: lines of code blocks, and code within sentences. Those in a loop of
    the shell are written out."""
    text = (ROOT / page).read_text()
    text = re.sub(r"^( *)```(?:python|text|yaml)\n.*?^\1```$", "", text, flags=re.DOTALL | re.M)
    text = text.replace("\\\n", " ")
    for word, value in PLACEHOLDERS.items():
        text = text.replace(word, value)
    text = re.sub(OPTIONAL, r"\1", text)
    lines, values = [], {}
    for line in text.splitlines():
        values |= {name: given.split() for name, given in re.findall(LOOP, line)}
        if found := re.fullmatch(rf"(?: {{4,}}|)((?:[A-Z_]+=\S+ )?{PROGRAMS} .*)", line):
            lines += written_out(found[1], values)
    inline = re.findall(rf"`({PROGRAMS}\s[^`]+)`", text)
    return list(dict.fromkeys(" ".join(command.split()) for command in [*lines, *inline]))


def written_out(command: str, values: dict[str, list[str]]) -> list[str]:
    """The command for each value of the variables that it uses."""
    names = list(dict.fromkeys(re.findall(r"\$\{?(\w+)", command)))
    commands = []
    for chosen in itertools.product(*(values[name] for name in names)):
        each = command
        for name, value in zip(names, chosen, strict=True):
            each = re.sub(rf"\$\{{?{name}\b\}}?", value, each)
        commands.append(each)
    return commands


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of README's quickstart ran, on small photos."""
    home = tmp_path_factory.mktemp("home")
    raw_photos(home / "my_photos")
    (home / "photo.jpg").write_bytes((home / "my_photos/dot/1.jpg").read_bytes())
    (home / "new_photos").symlink_to(home / "my_photos/bar")
    (home / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        quickstart = re.search(r"\n((?: {4}python .*\n)+)\n1\. \*\*Prepare", readme())
        assert quickstart
        for line in quickstart[1].strip().splitlines():
            words = line.split()[1:]
            if words[0] != "viz.py":  # slow, and drawn in tests/viz
                assert run(words) in (0, None), line
            plt.close("all")
        # the names that pages use for any run
        for name in ("results/NAME", "RUN"):
            (home / name).symlink_to(home / "results/mine")
    return home


def readme() -> str:
    return (ROOT / "README.md").read_text()


def run(words: list[str]) -> int | None:
    script, *arguments = words
    if script == "main.py":
        if arguments[0] == "train":
            arguments += small_flags()
        return cli.main(arguments)
    assert script == "prepare_data.py"
    return prepare.main(arguments)


def small_flags() -> list[str]:
    flags = []
    for name, value in SMALL.items():
        flags += ["--" + name.replace("_", "-"), str(value)]
    return flags


def test_the_quickstart_of_the_readme_runs_as_written(folder):
    run = folder / "results/mine"
    assert (run / "best.safetensors").is_file()
    assert "controls" in (run / "test.json").read_text()
    rows = (folder / "answers.csv").read_text().splitlines()
    assert len(rows) == 11 and rows[0].startswith("path,class,probability")


def test_the_commands_of_the_pages_are_found():
    assert len(COMMANDS) > 60
    found = [command for _, command in COMMANDS]
    assert "python main.py train --resume results/mine" in found  # within a sentence, two lines
    assert any(command.startswith("torchrun ") for command in found)
    assert any(command.startswith("PYTHONPATH=") for command in found)


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_every_command_of_a_page_is_understood(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for command in commands_of(page):
        for part in command.split("&&"):
            try:
                parse(shlex.split(part, comments=True))
            except (SystemExit, UserError) as error:
                if getattr(error, "code", 1) != 0:  # 0: --help
                    pytest.fail(f"{page}: {command}\n{error}")


def parse(words: list[str]) -> None:
    """Parse a command as the program would. Raises what it raises; AssertionError for a file or
    module that does not exist."""
    if re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    program, *rest = words
    if program in OTHERS:
        return
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(rest)
        program, rest = "python", [given.training_script, *given.training_script_args]
    if program in INSTALLED:
        rest = [INSTALLED[program], *rest]
    elif program == "pip":
        rest = ["-m", "pip", *rest]
    script, *arguments = rest
    if script == "-X":  # an option of Python's own
        return
    if script == "-m":
        parse_module(*arguments)
    elif not arguments and script in INSTALLED.values():
        return  # a program is named
    elif script == "main.py":
        cli.parse(arguments[0], arguments[1:])
    elif script == "prepare_data.py":
        tyro.cli(PrepareOptions, args=arguments)
    elif script == "viz.py":
        viz.check(tyro.cli(viz.Viz, args=arguments))
    else:
        assert (ROOT / script).is_file(), script
        assert script.startswith(tuple(SCRIPTS)), f"{script}: say in SCRIPTS where it is run"
        parse_script(ROOT / script, arguments)


class Parsed(Exception):
    """A script has parsed its arguments, and would now begin."""


def parse_script(script: Path, arguments: list[str]) -> None:
    if "argparse" not in script.read_text():
        return  # it takes no options
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser):
        parse_args(parser)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(script.parent))
        patch.setattr(sys, "argv", [script.name, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")


def parse_module(name: str, *arguments: str) -> None:
    if name != "pip":
        assert importlib.util.find_spec(name), name
        return
    assert arguments[0] == "install"
    for flag, value in itertools.pairwise(arguments):
        if flag == "-r":
            assert (ROOT / value).is_file(), value


def test_flags_that_others_are_mapped_to_exist():
    """The right column of docs/coming_from.md."""
    monkey = sys.path
    try:
        sys.path = [str(ROOT / "docs"), *monkey]
        import reference
    finally:
        sys.path = monkey
    sources = [*reference.CONFIGURATION.values(), *reference.COMMANDS.values()]
    fields = {field.name for source in sources for field in reference.read_class(*source)[1]}
    rows = re.findall(r"^\|.*\|(.*)\|$", (ROOT / "docs/coming_from.md").read_text(), re.M)
    flags = {flag for row in rows for flag in re.findall(r"--([a-z][a-z-]+)", row)}
    assert len(flags) > 40
    assert {flag.replace("-", "_") for flag in flags} <= fields


# Pages whose Python begins with the run of the quickstart (README.md and docs/python.md, which
# train their own, are in test_docs.py).
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if page not in ("README.md", "docs/python.md") and python_blocks(ROOT / page)
    ],
)
def test_the_python_of_a_further_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for line, code in python_blocks(ROOT / page):
        exec(compile("\n" * line + code, ROOT / page, "exec"), names)
    plt.close("all")
