"""Commands, fields, links and code in the pages. .ci/run runs the README's set-up commands."""

import importlib
import re
import subprocess
import sys

import pytest

from tests.pages import BLOCKS, PAGES, ROOT, commands
from warp_translate.cli.main import COMMANDS

SETUP = (ROOT / "setup.py").read_text()
LANGUAGES = {"bash", "python", "bibtex", "diff"}  # The first two are run.
NEEDS = {"a cluster", "two machines", "npm", "npm and the photographs", "docker", "libtpu"} | {
    "the plugin for CUDA"
}


def test_readme_is_short_and_cites_the_version():
    assert len(PAGES["README.md"].encode()) <= 9 * 1024
    (version,) = re.findall(r"version = \{(.*?)\}", PAGES["README.md"])
    assert f'"{version}"' in SETUP + (ROOT / "warp_translate/__init__.py").read_text()


def test_blocks_declare_language_and_needs():
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert {block.needs for block in BLOCKS if block.needs} == NEEDS
    assert sum(text.count("\n```") for text in PAGES.values()) == 2 * len(BLOCKS)


def test_every_command_is_shown():
    """The tests of the commands check their flags."""
    assert {words[0] for words in commands()} == set(COMMANDS)


def test_overridden_fields_and_experiment_files_exist():
    overridden = 0
    for words in commands():
        config = None
        for word in words:
            if word.startswith("--config="):
                path, _, arg = word.removeprefix("--config=").partition(":")
                assert (ROOT / path).is_file(), path
                module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
                config = module.get_config(arg)  # Checks the file's own arguments.
            elif word.startswith("--config."):
                assert config is not None, f"{' '.join(words)}: --config comes first"
                section, name = word.removeprefix("--config.").split("=")[0].split(".")
                assert name in config[section], word
                overridden += 1
    assert overridden


def test_named_fields_exist():
    """Fields that the text names as `config.section.field`, `section.field=value` or similar."""
    experiments = [("paired", ""), ("cycle", ""), ("cycle", "kind=contrastive"), ("classifier", "")]
    fields = {
        f"{section}.{name}"
        for module, arg in experiments
        for section, values in importlib.import_module(f"experiments.{module}")
        .get_config(arg)
        .items()
        if hasattr(values, "keys")
        for name in values
    }
    sections = {field.partition(".")[0] for field in fields}
    for page, text in PAGES.items():
        text = re.sub("```diff.*?```", "", text, flags=re.S)
        for section, name in re.findall(r"`(?:--)?(?:config\.)?(\w+)\.(\w+)[`=]", text):
            if section in sections and name not in ("py", "md"):
                assert f"{section}.{name}" in fields, f"{page}: {section}.{name}"


def test_installed_extras_exist():
    known = set(re.findall(r'^        "(\w+)": ', SETUP, re.M))
    for page, text in PAGES.items():
        for extras in re.findall(r"pip install .*\[([\w,]+)\]", text):
            assert set(extras.split(",")) <= known, page


def test_links_lead_to_files_and_headings():
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
            if "://" in target:
                continue
            linked = ((ROOT / page).parent / target).resolve() if target else ROOT / page
            assert linked.exists(), f"{page} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
                slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
                assert anchor in slugs, f"{page} links to {target}#{anchor}"


def test_patches_apply_and_are_small():
    """A loss, a head, a data set and a command take at most three files beside the test."""
    patches = [block.code for block in BLOCKS if block.language == "diff"]
    assert len(patches) == 4
    for patch in patches:
        parsed = subprocess.run(
            ["git", "apply", "--check", "--numstat"],
            cwd=ROOT,
            input=patch,
            capture_output=True,
            text=True,
            check=False,
        )
        assert parsed.returncode == 0, parsed.stderr
        assert 1 <= len(parsed.stdout.splitlines()) <= 3


@pytest.mark.full
def test_python_block_of_the_readme_runs():
    (code,) = (b.code for b in BLOCKS if (b.page, b.language) == ("README.md", "python"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 333, 517, 3) (1, 333, 517, 1) (1, 333, 517, 2)" in done.stdout
