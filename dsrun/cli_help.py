"""What `dsrun --help` shows: the commands in the order in which they are needed, one whole line each.

A command's own `--help` says more. The lines are here because they are a page: read one below the other, and short enough for 80 columns;
a command that is not here comes last with the beginning of its own text, and a test says that none is.
"""

from typing import Any

from dsrun.cli_options import NamingValues

FIRST = "Try first:  dsrun train --config configs/prompts_float32.yaml"
GROUPS: dict[str, dict[str, str]] = {
    "Experiments": {
        "train": "Train a config; the same command resumes it.",
        "sweep": "Train all variations of a file, skip what is done.",
        "watch": "Look at a run, or several, while they train.",
        "runs": "List run folders: state, step, best CER, formats.",
        "compare": "Several runs: error rates with intervals, differences, time.",
        "report": "One page of figures and tables from run folders.",
        "results": "The results page, written from run folders.",
    },
    "A trained run": {
        "eval": "Word and character error rates, and where the errors are.",
        "export": "A model in small numbers that recognises alone.",
        "transcribe": "Print what was said in files or in a stream.",
        "serve": "A local service: a page with a microphone, files, streams.",
    },
    "The same bits": {
        "diff": "Have two runs the same bits? If not, since when and where?",
        "verify": "Repeat the beginning of a run and compare every tensor.",
        "doctor": "This machine, and a self-check of its arithmetic.",
    },
    "Before training": {
        "configs": "List, show and check config files.",
        "schema": "What may be written in a config: `dsrun schema KEY`.",
        "data": "Import corpora; check and look at manifests.",
        "lm": "Train n-gram language models for beam search.",
    },
    "Without training": {
        "study": "What formats and roundings do to numbers.",
        "bench": "How fast training and its parts are here.",
    },
}


class GroupedCommands(NamingValues):
    """The program, whose help has its commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands of each group with their lines."""
        known = [name for lines in GROUPS.values() for name in lines]
        others = {name: command.get_short_help_str(60) for name, command in self.commands.items() if name not in known}
        for title, lines in (GROUPS | {"Others": others}).items():
            if rows := [(name.ljust(10), line) for name, line in lines.items() if name in self.commands]:
                with formatter.section(title):
                    formatter.write_dl(rows)
