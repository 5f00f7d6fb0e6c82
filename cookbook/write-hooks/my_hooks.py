"""Three things one often wants of a run, none of them worth a package: a metric, a gentler start, an early end."""

from llmx import hookimpl

FROZEN_STEPS = 10
"""Updates at the start in which the embedding stays as it is."""

ENOUGH = 2.0
"""Smoothed training loss, nats per token, at which the run ends."""

state = {"smooth_loss": None}


def state_dict():
    """What a checkpoint keeps of this file: numbers, strings, tensors, lists and dicts."""
    return state


def load_state_dict(saved):
    """Called when the run is resumed, so that it ends as if it had never stopped."""
    state.update(saved)


@hookimpl
def llmx_before_update(run):
    """Gradients are complete and clipped; the optimizer has not moved yet."""
    if run.state.step < FROZEN_STEPS:
        roles = run.model.roles()
        for name, parameter in run.module.named_parameters():
            if roles[name] == "embedding":
                parameter.grad.zero_()


@hookimpl
def llmx_after_step(run, metrics):
    """A hooks file hears an event before the loggers do: what it adds to the metrics is logged and plotted."""
    before = state["smooth_loss"]
    loss = metrics["train/loss"]
    state["smooth_loss"] = loss if before is None else 0.9 * before + 0.1 * loss
    metrics["mine/smooth_loss"] = state["smooth_loss"]
    if state["smooth_loss"] < ENOUGH:
        run.stop(f"the smoothed loss is below {ENOUGH}")


@hookimpl
def llmx_after_eval(run, metrics):
    """A text now and then says more than a number; generating changes nothing about the run."""
    if run.world.main:  # every process of a torchrun comes here; one tells
        for prompt in run.prompts()[:1]:
            print(f"step {run.state.step}: {prompt}{run.generate(prompt, max_new_tokens=30)}")
