"""The names of a new plugin: all follow from the name of its distribution."""

from __future__ import annotations

import importlib.util
import keyword
import re

from attrs import frozen

from llmx.component import KINDS
from llmx.errors import RecipeError
from llmx.registry import Registry

PREFIX = "llmx-"
"""What plugins' distributions begin with, so that they are found together."""

PEP_508 = re.compile(r"[a-z0-9]|[a-z0-9][a-z0-9._-]*[a-z0-9]", re.IGNORECASE)
LONGEST = 32
"""Characters of a distribution's name; with more, lines of the code that is written would pass 120."""


@frozen
class Names:
    """What the parts of a new project are called.

    Attributes:
        distribution: what pip installs: `llmx-lion`.
        package: what Python imports: `llmx_lion`.
        part: what a recipe names: `lion`.
        kind: one of `llmx.component.KINDS`.
    """

    distribution: str
    package: str
    part: str
    kind: str

    @classmethod
    def of(cls, name: str, kind: str) -> Names:
        """Derive all names from the one that was given.

        Raises:
            RecipeError: the name or the kind cannot be.
        """
        if kind not in KINDS:
            raise RecipeError(f"--kind {kind}: no such kind; {_near(kind)}")
        if not PEP_508.fullmatch(name):
            wanted = "letters, digits, '-', '_' and '.', a letter or digit at both ends"
            raise _refused(name, f"is no name of a distribution: it has {wanted}; as in llmx-lion")
        if len(name) > LONGEST:
            raise _refused(name, f"has {len(name)} characters: give at most {LONGEST}")
        distribution = re.sub(r"[-_.]+", "-", name).lower()  # one spelling of the many that pip takes for equal
        return cls(distribution, distribution.replace("-", "_"), distribution.removeprefix(PREFIX), kind)

    @property
    def class_prefix(self) -> str:
        """What classes of the plugin begin with: `Lion`."""
        return "".join(word.capitalize() for word in self.part.split("-"))

    @property
    def module(self) -> str:
        """The part's name as a piece of a file name: `my_lion`."""
        return self.part.replace("-", "_")

    @property
    def hint(self) -> str:
        """One line on a name that works and could be better; empty if there is nothing to say."""
        if self.distribution.startswith(PREFIX):
            return ""
        return f"plugins are found more easily by a name that begins with {PREFIX}: {PREFIX}{self.distribution}"

    def check(self) -> None:
        """See that nothing has these names yet.

        Raises:
            RecipeError: Python cannot import or name it, or something else is called that.
        """
        if not self.part[:1].isalpha():
            raise _refused(self.distribution, f"classes cannot be named after {self.part!r}: begin it with a letter")
        if keyword.iskeyword(self.package):
            raise _refused(self.distribution, f"{self.package!r} is a word of Python: try {PREFIX}{self.distribution}")
        spec = importlib.util.find_spec(self.package)
        if spec is not None and spec.origin is not None:
            text = f"there is a module {self.package} already ({spec.origin}): choose another name, or uninstall that"
            raise _refused(self.distribution, text)
        for offer in Registry().offers(self.kind):
            if offer.component.name == self.part:
                text = f"{offer.plugin.distribution} offers the {self.kind} {self.part!r} already: choose another name"
                raise _refused(self.distribution, text)


def _refused(name: str, reason: str) -> RecipeError:
    return RecipeError(f"plugins new: {name!r}: {reason}")


def _near(kind: str) -> str:
    import difflib

    near = difflib.get_close_matches(kind, KINDS, n=1)
    return f"nearest: {near[0]}" if near else f"kinds: {', '.join(KINDS)}"
