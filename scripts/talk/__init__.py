"""The talk "Computer Arithmetic in Deep Learning" (B. Catanzaro), claim by claim, on the machine at hand.

`scripts/reproduce_talk.sh` runs this package. It has three parts that know one another by FOLDER alone:

    parts.py, running.py     programs to run, one after the other, each leaving a JSON document or run folders in FOLDER
    claims.py, on_*.py       what the talk says, how it is tested, the rule of the verdict, and the verdict, from FOLDER alone
    pages.py                 talk.json, talk.md and talk.html, from FOLDER alone

A rule is text and code side by side: it says from which interval `agrees`, `differs` or `cannot tell` follows. Rules were written before
the folder at hand, and not before everything: `pages.KNOWN`, which stands in the table, says what was known. Figures stay what they are:
the verdict of a claim may change from machine to machine, its rule does not. What needs hardware that is not here, or a command that is
not built, is `not testable here`, with the reason. Slides' numbers are given where they are known.

The three slips of the talk's own arithmetic (slides 34, 37 and 40) are claims like the others, and differ.
"""
