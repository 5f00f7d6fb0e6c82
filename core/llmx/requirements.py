"""What is installed of what a requirement asks for."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement


def unmet(requirement: str) -> str:
    """Return what a requirement lacks here, empty if nothing: "is not installed", "0.1.0 is installed".

    Args:
        requirement: as pip takes it: `llmx-lion>=0.2`, `llmx[wandb]`.

    Raises:
        packaging.requirements.InvalidRequirement: it is none.
    """
    wanted = Requirement(requirement)
    try:
        found = importlib.metadata.distribution(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"
    if not wanted.specifier.contains(found.version, prereleases=True):
        return f"{found.version} is installed"
    for extra in wanted.extras:
        for text in found.requires or ():
            part = Requirement(text)
            if part.marker is not None and part.marker.evaluate({"extra": extra}) and not part.marker.evaluate():
                lack = unmet(f"{part.name}{part.specifier}")
                if lack:
                    return f"its extra {extra} needs {part.name}{part.specifier}, which {lack}"
    return ""
