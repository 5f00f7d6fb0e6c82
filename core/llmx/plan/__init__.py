"""What a run would take, without running it."""

from llmx.plan.make import Plan, make_plan, require_memory

__all__ = ["Plan", "make_plan", "require_memory"]
