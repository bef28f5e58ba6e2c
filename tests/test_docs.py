"""What the documents say and a machine can check: links, paths, commands, options, defaults, exit codes, figures."""

from __future__ import annotations

import re
import runpy

import pytest
import typer
from doc_blocks import ALL_DOCS, GUIDES, ROOT, USER_DOCS, blocks, prose

from embedall_spark import cli, config_help, errors, kinds
from embedall_spark.images import train_backbone

COMMANDS = typer.main.get_command(cli.app).commands | {name: cli.load(name) for name in cli.COMMANDS}
OPTIONS = {
    option.path: option.default
    for model in [*(kinds.load(name).Config for name in kinds.names()), train_backbone.Config]
    for option in config_help.options(model)
}
DEFAULTS = {
    (option.path, option.default)
    for model in [*(kinds.load(name).Config for name in kinds.names()), train_backbone.Config]
    for option in config_help.options(model)
}
SECTIONS = {path.rpartition(".")[0] for path in OPTIONS}
everywhere = pytest.mark.parametrize("path", ALL_DOCS, ids=lambda path: path.name)
for_users = pytest.mark.parametrize("path", USER_DOCS, ids=lambda path: path.name)


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


@everywhere
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in {slug(text) for text in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)}, target


@pytest.mark.parametrize("path", [path for path in ALL_DOCS if path.name != "log.md"], ids=lambda path: path.name)
def test_paths_exist(path):
    """Paths that a document names; the log names files as they were."""
    tops = "embedall_spark|tests|docs|conf|jobs|notebooks|benchmarks"
    for name in re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./-]*[\w/]", path.read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or "NAME" in name, name


@for_users
def test_options_and_defaults_are_those_of_the_models(path):
    text = prose(path)
    for name in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?::[^`]*)?`", text):
        if name.split(".")[0] in {section.split(".")[0] for section in SECTIONS} and "." in name:
            assert any(option == name or option.startswith(f"{name}.") for option in OPTIONS) or _inner(name), name
    for name, default in re.findall(r"`([a-z.]+[a-z_.]*)` \(default ([^),]+)\)?", text):
        assert (name, default) in DEFAULTS, f"{name}: {default}"


def _inner(name: str) -> bool:
    """Whether an option belongs to a section that may be left out, which the option of the section describes."""
    return name.rpartition(".")[0] in OPTIONS


@for_users
def test_commands_and_their_options_exist(path):
    defined = {name for command in COMMANDS.values() for option in command.params for name in option.opts}
    for name in re.findall(r"`(--[a-z-]+)", prose(path)):
        assert name in defined | {"--help"}, name
    for block in blocks(path):
        for program, name, *arguments in block.commands if block.language == "sh" else ():
            if program == "embedall":
                # Parsed, and not run: it raises what is wrong with options and arguments.
                COMMANDS[name].make_context(name, arguments)


def test_every_command_is_described():
    table = (ROOT / "docs" / "guide" / "operations.md").read_text().split("## Commands")[1].split("\n## ")[0]
    named = re.findall(r"`(?:embedall )?([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted(COMMANDS)


def test_exit_codes_are_those_of_the_errors():
    text = (ROOT / "docs" / "guide" / "operations.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = {value.exit_code for value in classes if issubclass(value, errors.EmbedallError)}
    assert raised | {0} <= documented
    assert {int(code) for code in re.findall(r"(\d+) [\w\s-]+?[,.]", cli.__doc__.split("codes:")[1])} == documented


def test_the_reference_of_options_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "configuration.py"))
    assert script["FILE"].read_text() == script["render"](), "run: python docs/configuration.py"


def test_figures_of_scale_are_those_of_the_log():
    log = (ROOT / "docs" / "log.md").read_text()
    table = (ROOT / "README.md").read_text().split("## How it scales")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .+? \| (.+) \| (.+) \|$", table, re.MULTILINE)[1:]
    for figure in re.findall(r"\d*\.?\d+", " ".join(" ".join(row).replace(",", "") for row in rows)):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d]|\.\d)", log.replace(",", "")), figure


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in ALL_DOCS:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"


def test_the_glossary_has_one_sentence_for_each_word():
    text = (ROOT / "docs" / "glossary.md").read_text()
    entries = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(entries) > 15
    for word, text in entries:
        assert re.fullmatch(r"[^.]+(?:\.\w[^.]*)*\.\n?", text), word


def test_every_guide_is_linked_from_readme():
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/guide/{path.name}" in readme for path in GUIDES)
    assert {path.name for path in GUIDES} == {path.name for path in (ROOT / "docs" / "guide").iterdir()}


def test_architecture_names_what_there_is():
    """Files and functions of the first table; the second has every module and folder at the package's top."""
    package = ROOT / "embedall_spark"
    places, layers = (ROOT / "docs" / "architecture.md").read_text().split("## Where to find it")[1].split("## Layers")
    for row in re.findall(r"^\| Where .+? \| (.+) \|$", places, re.MULTILINE):
        for part in re.split(r"; | and | for ", row):
            for file in re.findall(r"`([\w/]+\.py)`", part):
                source = (package / file).read_text()
                for name in re.findall(r"(?:function|class) `(\w+)`", part):
                    assert re.search(rf"\b{name}\b", source), f"{file}: {name}"
    table = "".join(re.findall(r"^\| \w+ \| (`.+?) \|", layers.split("\n## ")[0], re.MULTILINE))
    named = {name.rstrip("/") for name in re.findall(r"`([\w/]+)`", table)}
    there = {path.stem for path in package.iterdir() if path.name != "conf" and not path.name.startswith("_")}
    assert named == there, "the table of layers in docs/architecture.md"
