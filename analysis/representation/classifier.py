"""A classifier on an encoder's codes, trained with the encoder or on its codes alone."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.check import UndefinedCheckError
from analysis.predictive.model_samples import block_size
from pyro_vae.rng import as_floats, evaluation_mode

# The rates of Adam, of which the validation labels choose, for each method and draw of labels alike.
RATES = (1e-2, 1e-3)

# A fifth of the labels are held out to choose the rate and when to stop, looked at every so many steps.
VALIDATION = 0.2
_EVERY = 20

# A coordinate narrower than this share of the widest is not made as wide: of a VAE's codes, whose active
# ones are about 1 wide, a collapsed one would be noise beside them.
_NARROWEST = 0.1


class Classifier(nn.Module):
    """The encoder, its codes standardised, and a linear head that starts from 0.

    Args:
        program: Has `embed(x)`; belongs to the classifier alone.
        x: Data that say where its codes lie.
        classes: The number of outputs.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, program: Any, x: Real[Tensor, " n *event"], classes: int) -> None:
        super().__init__()
        self.program = program.requires_grad_(True)
        # The parameters by name that the code depends on: a decoder's are not among them.
        self.moved = _encoder_parameters(program, as_floats(x[:2]))
        self.mean = torch.zeros(())
        self.scale = torch.ones(())
        codes = self.codes(x)
        deviation = codes.std(0)
        self.mean = codes.mean(0)
        self.scale = deviation.clamp(min=max(_NARROWEST * float(deviation.max()), 1e-12))
        self.head = nn.Linear(codes.shape[1], classes).to(codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def code(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "n latent"]:
        """The standardised code."""
        code = self.program.embed(x).flatten(1).to(torch.get_default_dtype())
        return (code - self.mean) / self.scale

    def forward(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "n classes"]:
        """The logits."""
        return self.head(self.code(x))

    def predicted(self, x: Real[Tensor, " n *event"]) -> Int[Tensor, " n"]:
        """The likeliest label of each datum."""
        codes = self.codes(x)
        with evaluation_mode(self):
            return self.head(codes).argmax(1)

    def codes(self, x: Real[Tensor, " n *event"]) -> Float[Tensor, "n latent"]:
        """The standardised codes of data, without gradients."""
        with evaluation_mode(self):
            return torch.cat([self.code(as_floats(part)) for part in x.split(block_size(x, 1))])


def trained(
    start: Classifier,
    x: Float[Tensor, " n *event"],
    y: Int[Tensor, " n"],
    batches: list[Tensor],
    *,
    held: int,
    frozen: bool,
) -> tuple[Classifier, int]:
    """The classifier of the rate and the step with the fewest errors on held-out labels, and the step.

    Args:
        start: Where training starts; it stays as it is.
        x: Data, those that are held out first.
        y: Their labels.
        batches: Of each step, rows of the data that are not held out.
        held: The number of data held out. Without any, all steps are taken, and the rate is the smallest
            with the fewest errors on the data trained on.
        frozen: Whether the head alone is trained.
    """
    best, least, at = {}, (float("inf"), float("inf")), 0
    names = [] if frozen else start.moved
    changing = {f"program.{name}" for name in names} | {name for name, _ in start.named_buffers()}
    changing |= {"head.weight", "head.bias"}
    # A frozen encoder's codes are taken once.
    codes = start.codes(x) if frozen else None
    looked = slice(held or len(x))
    for rate in RATES if held else sorted(RATES):
        net = copy.deepcopy(start)
        named = dict(net.program.named_parameters())
        parameters = [named[name] for name in names]
        given, forward = (x, net) if codes is None else (codes, net.head)
        optimiser = torch.optim.Adam([*parameters, *net.head.parameters()], rate)
        net.train(not frozen)
        for step, rows in enumerate(batches, start=1):
            rows = held + rows.to(x.device)
            optimiser.zero_grad()
            F.cross_entropy(forward(given[rows]), y[rows]).backward()
            optimiser.step()
            if step == len(batches) or (held and step % _EVERY == 0):
                with evaluation_mode(net):
                    logits = forward(given[looked])
                # Cross-entropy alone would stop early: it grows with confidence while errors still fall.
                wrong = float((logits.argmax(1) != y[looked]).sum())
                # Of data trained on it falls the faster the larger the rate.
                loss = (wrong, float(F.cross_entropy(logits, y[looked])) if held else 0.0)
                if loss < least:
                    least, at = loss, step
                    state = net.state_dict().items()
                    best = {name: value.clone() for name, value in state if name in changing}
    net = copy.deepcopy(start)
    net.load_state_dict(best, strict=False)
    return net, at


def _encoder_parameters(program: Any, x: Float[Tensor, " n *event"]) -> list[str]:
    """The names of the parameters that the code's gradient reaches."""
    named = dict(program.named_parameters())
    with evaluation_mode(program), torch.enable_grad():
        codes = program.embed(x)
        if not codes.requires_grad:
            raise UndefinedCheckError(
                "embed(x) has no gradient: its encoder cannot be fine-tuned."
            )
        gradients = torch.autograd.grad(codes.sum(), list(named.values()), allow_unused=True)
    reached = zip(named, gradients, strict=True)
    return [name for name, gradient in reached if gradient is not None]


def afresh(vae: Any, moved: Sequence[str]) -> Any:
    """A copy whose encoder's layers have started afresh."""
    program = copy.deepcopy(vae)
    owners = {name.rpartition(".")[0] for name in moved}
    for module in program.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for owner in owners:
        if not hasattr(program.get_submodule(owner), "reset_parameters"):
            raise UndefinedCheckError(
                f"the parameters of {owner or 'the program'} cannot start afresh: give the argument untrained."
            )
    return program
