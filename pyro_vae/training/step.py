"""One update of whatever a loss depends on, on the device from end to end."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from pyro_vae.compilation.compiled_function import Compiled, CompileMode
from pyro_vae.training.processes import Processes
from pyro_vae.training.totals import Totals

# So many steps in a row without a finite loss and gradient end a run.
PATIENCE = 20


@dataclass(frozen=True)
class Loss:
    """What a batch costs.

    Args:
        mean: What is minimised.
        data: The number of data that it is a mean over.
        sums: Values to log, summed over the data, without a gradient.
        weight: What it counts in the mean over all processes; 1 for a single one.
        own: What the loss's own parameters minimise; None if it has none.
    """

    mean: Tensor
    data: int | Tensor = 1
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    own: Tensor | None = None


@dataclass(frozen=True)
class Own:
    """Parameters of the loss itself, such as a critic's, which are trained down a loss of their own.

    Args:
        parameters: Leaves with a gradient, by name.
        lr: Adam's learning rate for them.
        betas: Adam's decays of the first and second moment for them.
    """

    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Step:
    """A step of Adam down a loss; the program behind the loss may be any.

    A step whose loss or gradient is not finite changes no parameter and no moment of the optimiser:
    fused Adam reads that from a tensor, so nothing waits for the device. After `PATIENCE` skipped
    steps in a row all others are skipped too, so that the parameters stay as they were when it
    began.

    All of it is one function of tensors that changes in place what it trains. So it can be compiled
    whole, from the noise to the new parameters; `Compiled` says when it is. With several processes
    what is compiled ends with the gradient: one sum over all of them follows, and the same update in
    each.

    Args:
        loss: Gives the loss of a batch; its noise is drawn from the global random stream.
        parameters: What is trained, by name: leaves with a gradient.
        lr: Adam's learning rate.
        clip_norm: The largest norm a gradient may have; a longer one is shortened to it.
        compile: "on", "off", or "auto" to compile where the work that is expected pays for it.
        expected_steps: How many steps a batch of this form will be taken for, for "auto".
        tolerance: How far the compiled gradient may be from the eager one, as a share of its norm.
        modules: What the loss is made of. A graph cannot follow an attribute that is bound anew.
        form: A name for the form of a batch, from what the loss is called with; its shapes if None.
        processes: Those that train together.
        own: The loss's own parameters, trained in the same step down `Loss.own`; its gradient is taken
            before either update, and is not clipped.

    Raises:
        ValueError: If there is nothing to train, or there are several processes and `own` parameters.

    References:
        Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015),
        https://arxiv.org/abs/1412.6980
    """

    def __init__(
        self,
        loss: Callable[..., Loss],
        parameters: Mapping[str, Tensor],
        *,
        lr: float,
        clip_norm: float | None = None,
        compile: CompileMode = "off",
        expected_steps: Callable[[str], int] = lambda form: 0,
        tolerance: float = 1e-3,
        modules: Sequence[nn.Module] = (),
        form: Callable[..., str] | None = None,
        processes: Processes | None = None,
        own: Own | None = None,
    ) -> None:
        if not parameters:
            raise ValueError("there is no parameter with a gradient to train.")
        self.loss = loss
        self.own = own or Own()
        self.trained = dict(parameters)
        # In the optimiser's order.
        self.parameters = {**self.trained, **self.own.parameters}
        self.clip_norm = clip_norm
        self.modules = modules
        self.processes = processes or Processes()
        if self.own.parameters and self.processes.size > 1:
            raise ValueError("a loss with parameters of its own trains in one process.")
        groups: list[dict[str, Any]] = [{"params": list(self.trained.values())}]
        if self.own.parameters:
            of_loss = list(self.own.parameters.values())
            groups.append({"params": of_loss, "lr": self.own.lr, "betas": self.own.betas})
        self.optimizer = torch.optim.Adam(groups, lr=lr, fused=True)
        device = next(iter(self.parameters.values())).device
        self._start_moments()
        self.totals = Totals.zero(device)
        # A tensor, so that a graph reads it anew; fused Adam wants this type on each device.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._lrs_now = [group["lr"] for group in self.optimizer.param_groups]
        self._lrs = [torch.tensor(lr, dtype=dtype, device=device) for lr in self._lrs_now]
        self.compiled = Compiled(
            self._take if self.processes.size == 1 else self._part,
            compile,
            expected_steps,
            names=self._names,
            tolerance=tolerance,
            modules=modules,
            form=form,
        )

    def over(
        self,
        names: Collection[str],
        expected_steps: Callable[[str], int],
        *,
        loss: Callable[..., Loss] | None = None,
        totals: Totals | None = None,
    ) -> "Step":
        """A step of some of the parameters, and of the loss's own, that leaves the others as they are.

        It is compiled by itself. The optimiser is this step's: a parameter has one state of Adam and one
        learning rate, whichever step moves it.

        Args:
            names: Of the parameters that it trains.
            expected_steps: How many such steps a batch of this form will be taken for.
            loss: Its loss; this step's if None.
            totals: Where it adds up; totals of its own if None.

        Raises:
            ValueError: If it would train nothing, or there are several processes.
        """
        if not names:
            raise ValueError("there is no parameter with a gradient to train.")
        if self.processes.size > 1:
            raise ValueError("a step of some of the parameters trains in one process.")
        part = copy.copy(self)
        part.loss = self.loss if loss is None else loss
        part.trained = {name: self.trained[name] for name in names}
        part.parameters = {**part.trained, **self.own.parameters}
        part.totals = Totals.zero(self.totals.data.device) if totals is None else totals
        part.compiled = Compiled(
            part._take,
            self.compiled.mode,
            expected_steps,
            names=part._names,
            tolerance=self.compiled.tolerance,
            modules=self.modules,
            form=self.compiled.form,
        )
        return part

    def __call__(self, *batch: Any) -> Tensor:
        """Take a step, add what it logs to `totals`, and return its loss, on the device."""
        for place, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self._lrs_now[place]:
                self._lrs[place].fill_(group["lr"])
                self._lrs_now[place] = group["lr"]
        loss, *parts = self.compiled(*batch)
        return self._together(*parts) if parts else loss

    def load_state_dict(self, optimizer: dict[str, Any], totals: Mapping[str, Any]) -> None:
        """Take over the optimiser's state and the totals."""
        self.optimizer.load_state_dict(optimizer)
        self._start_moments()
        self.totals = Totals.from_dict(totals, self.totals.data.device)
        # A graph would go on with the tensors of before.
        self.compiled.forget()

    def _take(self, *batch: Any) -> tuple[Tensor, ...]:
        """The whole step."""
        loss = self.loss(*batch)
        # The two losses may share what they are made of.
        shared = loss.own is not None
        trained = _gradients(loss.mean, self.trained, retain_graph=shared)
        own = _gradients(loss.own, self.own.parameters) if loss.own is not None else []
        with torch.no_grad():
            self._update(_apart(trained), loss, _apart(own))
        return (loss.mean.detach(),)

    def _part(self, *batch: Any) -> tuple[Tensor, ...]:
        """A process's part of the loss and, in one vector, of all that is summed over processes."""
        loss = self.loss(*batch)
        trained = _gradients(loss.mean, self.trained)
        # Python's own, so set by the first call, which is always eager, and the same for all.
        self._trained = [p for p, _ in trained]
        self._logged = list(loss.sums)
        counts = (loss.weight > 0) * torch.stack([total.float() for total in loss.sums.values()])
        means = loss.weight * torch.cat([*(g.flatten() for _, g in trained), loss.mean.view(1)])
        data = means.new_full((1,), int(loss.data) if loss.weight > 0 else 0)
        return loss.mean.detach(), torch.cat([means.detach(), data, counts])

    def _together(self, parts: Tensor) -> Tensor:
        """The step, once every process has its part."""
        # What a graph returns may be a buffer that it uses again.
        whole = parts.clone()
        self.processes.add(whole)
        sizes = [parameter.numel() for parameter in self._trained]
        *flat, mean, data, sums = whole.split([*sizes, 1, 1, len(self._logged)])
        gradients = [g.view_as(p) for g, p in zip(flat, self._trained, strict=True)]
        logged = dict(zip(self._logged, sums.double(), strict=True))
        with torch.no_grad():
            self._update((self._trained, gradients), Loss(mean[0], data[0].long(), logged))
        return mean[0]

    def _update(
        self,
        trained: tuple[list[Tensor], list[Tensor]],
        loss: Loss,
        own: tuple[list[Tensor], list[Tensor]] = ([], []),
    ) -> None:
        """Take the step, parameters and their gradients, unless something is not finite."""
        parameters, gradients = trained
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            # As torch.nn.utils.clip_grad_norm_ does it.
            scale = (self.clip_norm / (norm + 1e-6)).clamp(max=1)
            gradients = [gradient * scale for gradient in gradients]
        taken = loss.mean.isfinite() & norm.isfinite() & (self.totals.in_a_row < PATIENCE)
        if own[0]:
            taken = taken & torch.nn.utils.get_total_norm(own[1]).isfinite()
        for place, (leaves, slopes) in enumerate(((parameters, gradients), own)):
            if leaves:
                self._adam(place, leaves, slopes, taken)
        self.totals.add(taken, loss.data, loss.sums)

    def _adam(
        self, place: int, parameters: list[Tensor], gradients: list[Tensor], taken: Tensor
    ) -> None:
        """Adam's update of parameters of one group, if it is to be taken."""
        moments = [self.optimizer.state[parameter] for parameter in parameters]
        group = self.optimizer.param_groups[place]
        adam(
            parameters,
            gradients,
            [moment["exp_avg"] for moment in moments],
            [moment["exp_avg_sq"] for moment in moments],
            [],
            [moment["step"] for moment in moments],
            fused=True,
            found_inf=(~taken).to(torch.float32),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=self._lrs[place],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _start_moments(self) -> None:
        """Make the optimiser's state now: a step that it skips does."""
        if self.optimizer.state:
            return
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        # Fused Adam wants float32, whatever the default type is.
        one = torch.ones(
            (), dtype=torch.float32, device=next(iter(self.parameters.values())).device
        )
        self.optimizer.found_inf = one  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _names(self) -> dict[str, Tensor]:
        """What the compiled step is compared in. A gradient is seen in the mean that it moves."""
        moments = {
            f"the gradient of {name}": self.optimizer.state[parameter]["exp_avg"]
            for name, parameter in self.parameters.items()
        }
        buffers = {
            f"the buffer {name}": buffer
            for module in self.modules
            for name, buffer in module.named_buffers()
        }
        totals = {f"the total of {name}": total for name, total in self.totals.sums.items()}
        return moments | buffers | totals


def _gradients(
    loss: Tensor, parameters: Mapping[str, Tensor], *, retain_graph: bool | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Each parameter that a loss depends on, with its gradient; Adam leaves the others alone."""
    leaves = list(parameters.values())
    found = torch.autograd.grad(loss, leaves, retain_graph=retain_graph, allow_unused=True)
    both = zip(leaves, found, strict=True)
    return [(parameter, gradient) for parameter, gradient in both if gradient is not None]


def _apart(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and their gradients, in the parameters' layout."""
    return [p for p, _ in pairs], [_like(gradient, p) for p, gradient in pairs]


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the parameter's layout, which fused Adam takes for granted."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
