"""The commands, their flags, and the texts of ``--help`` and of shell completion."""

import dataclasses
import importlib
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from absl import flags

COMMANDS = {
    "doctor": "Check that this machine can train and export.",
    "data": "Inspect a folder of images: counts, errors, duplicates, and how to train on it.",
    "train": "Train an experiment, or resume it.",
    "evaluate": "Measure a trained network on the test split and draw a sheet of examples.",
    "translate": "Translate images with a run or a bundle.",
    "checkpoints": "List, verify or remove the checkpoints of a run.",
    "export": "Export the networks of a run as bundles.",
    "serve": "Serve bundles over HTTP.",
    "site": "Write a web site that translates on its visitors' devices.",
    "device": "Time a bundle on this machine and choose its factor.",
    "cost": "Count and time a generator by image size and factor.",
    "ablate": "Train and evaluate every run of a sweep.",
    "report": "Compare runs on a page, in Markdown or in a table.",
}
"""One line for each, in the order in which a user meets them."""

_WIDTH, _INDENT = 96, 30
_VALUES = {"int": "N", "float": "X", "path": "PATH", "comma separated list of strings": "A,B"}

Flag = flags.FlagHolder[Any]


@dataclasses.dataclass(frozen=True)
class Command:
    """How a command is called; `program.run` checks it and prints it for ``--help``.

    Attributes:
      name: one of `COMMANDS`.
      examples: arguments, without the name of the command.
      required: flags that must be given.
      one_of: flags of which exactly one must be given.
      prints: flags that only print; with one of them only the first required flag is needed.
      common: flags that many users need.
      advanced: all other flags.
      words: placeholder of the arguments that are not flags; "" if the command takes none.
      text: help of shared flags that have a special meaning here, by name.
    """

    name: str
    examples: tuple[str, str]
    required: tuple[Flag, ...] = ()
    one_of: tuple[Flag, ...] = ()
    prints: tuple[Flag, ...] = ()
    common: tuple[Flag, ...] = ()
    advanced: tuple[Flag, ...] = ()
    words: str = ""
    text: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def flags(self) -> tuple[Flag, ...]:
        """All flags of the command."""
        return (*self.one_of, *self.required, *self.common, *self.prints, *self.advanced)

    def help(self) -> str:
        """Returns the text for ``--help``."""
        program = f"warp-translate {self.name}"
        alternatives = [_usage(flag) for flag in self.one_of]
        if len(alternatives) > 2:  # Without values, to fit into a line.
            alternatives = [each.partition("=")[0] for each in alternatives]
        one_of = f"({' | '.join(alternatives)})" if self.one_of else ""
        usage = [program, one_of, *map(_usage, self.required), self.words, "[flags]"]
        lines = [
            f"usage: {' '.join(filter(None, usage))}",
            "",
            COMMANDS[self.name],
            "",
            "examples:",
            *(f"  {program} {words}".rstrip() for words in self.examples),
        ]
        for title, group in (
            ("one of", self.one_of),
            ("required", self.required),
            ("common", (*self.common, *self.prints)),
            ("advanced", self.advanced),
        ):
            if group:
                lines += ["", f"{title}:", *(line for flag in group for line in self._lines(flag))]
        return "\n".join(lines)

    def _lines(self, holder: Flag) -> Iterator[str]:
        flag = flags.FLAGS[holder.name]
        # Without absl's additions to the help of enumerations and of flags that may be repeated.
        text = re.sub(r"^<[^>]*>: |;\s+repeat this option.*", "", flag.help)
        text = self.text.get(flag.name, text)
        if flag.default not in (None, []):
            default = str(flag.default)
            text += f" (default: {default.lower() if flag.boolean else default})"
        first, *others = textwrap.wrap(text, _WIDTH - _INDENT)
        name = f"  {_usage(holder)}"
        if len(name) > _INDENT - 2:
            yield name
            name = ""
        yield f"{name:<{_INDENT}}{first}"
        yield from (f"{'':<{_INDENT}}{line}" for line in others)


def _usage(holder: Flag) -> str:
    flag = flags.FLAGS[holder.name]
    if flag.boolean:
        return f"--[no]{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    kind = flag.flag_type().removeprefix("multi ")
    return f"--{flag.name}={'|'.join(choices) if choices else _VALUES.get(kind, 'TEXT')}"


def overview() -> str:
    """Returns the list of commands, for ``warp-translate --help``."""
    return "\n".join(
        [
            "usage: warp-translate COMMAND [flags]",
            "",
            *(f"  {name:<13}{summary}" for name, summary in COMMANDS.items()),
            "",
            "warp-translate COMMAND --help         flags of a command",
            "warp-translate --version              version",
            "warp-translate --completion=bash|zsh  script that completes commands and flags",
        ]
    )


_COMPLETION = r"""
_warp_translate() {
  local names="%s"
  if (( COMP_CWORD > 1 )); then
    case ${COMP_WORDS[1]} in
%s
      *) names= ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$names" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -o nospace -F _warp_translate warp-translate
"""


def completion(shell: str) -> str:
    """Returns a script for bash or zsh; it completes other words as file names."""
    cases = []
    for name in COMMANDS:
        command: Command = importlib.import_module(f"warp_translate.cli.{name}").COMMAND
        words = (_usage(flag).replace("[no]", "").partition("=") for flag in command.flags)
        cases.append(f"      {name}) names='{' '.join(a + b for a, b, _ in words)} --help' ;;")
    script = _COMPLETION.lstrip() % (" ".join(COMMANDS), "\n".join(cases))
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script
