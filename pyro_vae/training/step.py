"""A single optimizer step that never synchronizes with the host, and an epoch's totals."""

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from pyro_vae.compilation import CompiledFunction, CompileMode
from pyro_vae.training.processes import Processes

# Number of consecutive steps without a finite loss and gradient that ends a run.
MAX_SKIPPED_IN_A_ROW = 20
# Largest relative error of a compiled loss.
_LOSS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Loss:
    """Batch loss and the metrics to log."""

    mean: Tensor
    count: int | Tensor = 1  # The number of examples.
    # Values to log, summed over the examples, without a gradient.
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0  # The weight of the mean among all processes.
    auxiliary: Tensor | None = None  # The loss of the objective's own parameters.


@dataclass(frozen=True)
class AuxiliaryParameters:
    """Parameters of the objective, such as a critic's, which minimise `Loss.auxiliary`."""

    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Totals:
    """Sums over the steps of an epoch, on the device: they are read once an epoch, not every step.

    The tensors are changed in place, so that a compiled step continues with them. They are parts
    of two vectors, which a step changes at once.

    Attributes:
        data: Examples in the steps taken.
        skipped: Steps skipped, and `in_a_row` those since the last one taken.
        steps: Steps begun since training began.
        sums: Sums of the logged values over the examples, by name.
    """

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)
        self.data, self.skipped, self.in_a_row, self.steps = self._counts.unbind()
        self._sums = torch.zeros(0, dtype=torch.float64, device=device)
        self.sums: dict[str, Tensor] = {}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], device: torch.device) -> "Totals":
        """Load the result of `to_dict` onto a device."""
        totals = cls(device)
        for name in ("data", "skipped", "in_a_row", "steps"):
            getattr(totals, name).copy_(saved[name])
        totals._name_sums(list(saved["sums"]))
        for name, value in saved["sums"].items():
            totals.sums[name].copy_(value)
        return totals

    def to_dict(self) -> dict[str, Any]:
        """All totals as tensors, copied."""
        counts = {
            name: getattr(self, name).clone() for name in ("data", "skipped", "in_a_row", "steps")
        }
        sums = {name: total.clone() for name, total in self.sums.items()}
        return counts | {"first_skipped": self.first_skipped.clone(), "sums": sums}

    @property
    def first_skipped(self) -> Tensor:
        """The number of steps before the current row of skipped ones."""
        return self.steps - self.in_a_row

    def add(self, taken: Tensor, count: int | Tensor, sums: Mapping[str, Tensor]) -> None:
        """Add a step, if `taken`, with its number of examples and the sums over them."""
        if not isinstance(count, Tensor):
            count = torch.full((), count, device=taken.device)
        one, no = torch.ones_like(count), torch.zeros_like(count)
        # What is kept, and what is added: a step taken ends the row of skipped ones.
        kept = torch.stack([one, one, no, one])
        self._counts.mul_(torch.where(taken, kept, torch.ones_like(kept)))
        added = torch.stack([count, no, no, one])
        self._counts.add_(torch.where(taken, added, torch.stack([no, one, one, one])))
        if sums:
            self._name_sums(list(sums))
            # where, not a product: 0 times NaN is NaN.
            self._sums.add_(torch.where(taken, torch.stack(list(sums.values())), 0.0))

    def _name_sums(self, names: list[str]) -> None:
        """Make a sum for each name, at the first step. Names do not change."""
        if names != list(self.sums):
            self._sums = torch.zeros(len(names), dtype=torch.float64, device=self.data.device)
            self.sums = dict(zip(names, self._sums.unbind(), strict=True))

    def start_epoch(self) -> None:
        """Reset all but what runs across epochs."""
        for total in (self.data, self.skipped, self._sums):
            total.zero_()

    def means(self) -> dict[str, float]:
        """Each value's mean per example over the steps taken, if any. This synchronizes."""
        data = int(self.data)
        return {name: float(total) / data for name, total in self.sums.items()} if data else {}


class _Adam(torch.optim.Adam):
    """Adam, with the methods that torch wraps to keep its compiler out of them.

    The wrappers import torch._dynamo, a second of start-up, whether anything compiles or not.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)


class Step:
    """A step of Adam on the loss of any program.

    A step whose loss or gradient is not finite changes no parameter and no moment of the
    optimizer: fused Adam reads that from a tensor, so nothing waits for the device. After
        `MAX_SKIPPED_IN_A_ROW`
    skipped steps in a row all others are skipped as well, so that the parameters stay unchanged.

    The step is one function of tensors that changes in place what it trains, so it can be compiled
    as a whole, from the noise to the new parameters; see `CompiledFunction`. With several
    processes the compiled part ends with the gradient; a sum over all processes and the same
    update in each of them follow.

    Args:
        loss: Gives the loss of a batch, with noise from the global random stream.
        parameters: The parameters to train, by name: leaves with a gradient.
        lr: Adam's learning rate.
        clip_norm: The largest norm of a gradient; a longer one is rescaled to it.
        compile: "on", "off", or "auto" to compile where the expected work pays for it.
        expected_steps: The number of steps that a form of a batch is expected to get.
        tolerance: The largest difference of a compiled gradient from the eager one, as a share of
            its norm.
        modules: The modules of the loss, whose attributes must not be rebound in a graph.
        form: Names the form of a batch; the shapes of the arguments if None.
        processes: The processes that train together.
        auxiliary: The objective's own parameters, trained in the same step on `Loss.auxiliary`.
            Its gradient is taken before either update, and is not clipped.

    Raises:
        ValueError: If there is nothing to train, or there are several processes and auxiliary
            parameters.

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
        auxiliary: AuxiliaryParameters | None = None,
    ) -> None:
        if not parameters:
            raise ValueError("there is no parameter with a gradient to train.")
        self.loss = loss
        self.auxiliary = auxiliary or AuxiliaryParameters()
        self.trained = dict(parameters)
        # In the optimizer's order.
        self.parameters = {**self.trained, **self.auxiliary.parameters}
        self.clip_norm = clip_norm
        self.modules = modules
        self.processes = processes or Processes()
        if self.auxiliary.parameters and self.processes.size > 1:
            raise ValueError(
                "an objective with parameters of its own must be trained in one process."
            )
        groups: list[dict[str, Any]] = [{"params": list(self.trained.values())}]
        if self.auxiliary.parameters:
            own = list(self.auxiliary.parameters.values())
            groups.append({"params": own, "lr": self.auxiliary.lr, "betas": self.auxiliary.betas})
        self.optimizer = _Adam(groups, lr=lr, fused=True)
        device = next(iter(self.parameters.values())).device
        # The steps of each parameter, a vector for each group, of which the optimizer's are views.
        self._steps: list[Tensor] = []
        self._initialise_moments()
        self.totals = Totals(device)
        # Tensors, so that a graph reads changes; fused Adam needs these types.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._current_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._lrs = [torch.tensor(lr, dtype=dtype, device=device) for lr in self._current_lrs]
        self.tolerance = tolerance
        self.form = form
        self.compiled = self._compiled(compile, expected_steps)

    def _compiled(
        self, mode: CompileMode, expected_steps: Callable[[str], int]
    ) -> CompiledFunction:
        outputs = {"loss": max(_LOSS_TOLERANCE, 0.01 * self.tolerance)}
        alone = self.processes.size == 1
        return CompiledFunction(
            self._whole_step if alone else self._local_gradient,
            mode,
            expected_steps,
            name="step, batch",
            outputs=outputs if alone else outputs | {"gradient": self.tolerance},
            changed=self._changed_tensors,
            tolerance=self.tolerance,
            modules=self.modules,
            form=self.form,
            cuda_graph=True,
        )

    def restrict(
        self,
        names: Collection[str],
        expected_steps: Callable[[str], int],
        *,
        loss: Callable[..., Loss] | None = None,
        totals: Totals | None = None,
    ) -> "Step":
        """A step of some of the parameters, and the auxiliary ones; others are unchanged.

        It is compiled on its own. The optimizer is shared: a parameter has one state of Adam and
        one learning rate, whichever step moves it.

        Args:
            names: The names of the parameters to train.
            expected_steps: The number of such steps that a form of a batch is expected to get.
            loss: Its loss; this step's if None.
            totals: Its totals; new ones if None.

        Raises:
            ValueError: If there is nothing to train, or there are several processes.
        """
        if not names:
            raise ValueError("there is no parameter with a gradient to train.")
        if self.processes.size > 1:
            raise ValueError("a step of some of the parameters needs a single process.")
        part = copy.copy(self)
        part.loss = self.loss if loss is None else loss
        part.trained = {name: self.trained[name] for name in names}
        part.parameters = {**part.trained, **self.auxiliary.parameters}
        part.totals = Totals(self.totals.data.device) if totals is None else totals
        part.compiled = part._compiled(self.compiled.mode, expected_steps)
        return part

    def __call__(self, *batch: Any) -> Tensor:
        """Take a step, add its metrics to `totals`, and return its loss, on the device."""
        for place, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self._current_lrs[place]:
                self._lrs[place].fill_(group["lr"])
                self._current_lrs[place] = group["lr"]
        loss, *local = self.compiled(*batch)
        return self._reduced_step(*local) if local else loss

    def load_state_dict(self, optimizer: dict[str, Any], totals: Mapping[str, Any]) -> None:
        """Load the optimizer's state and the totals."""
        self.optimizer.load_state_dict(optimizer)
        self._initialise_moments()
        self.totals = Totals.from_dict(totals, self.totals.data.device)
        # A graph would continue with the tensors from before.
        self.compiled.reset()

    def drop_tiny_moments(self) -> None:
        """Set moments below 1e-30 to 0, which changes no parameter.

        Where a gradient stays 0, as for a pixel that is rarely set, they decay to subnormal
        numbers in some hundred steps, which are slow on many CPUs.
        """
        for state in self.optimizer.state.values():
            for moment in (state["exp_avg"], state["exp_avg_sq"]):
                moment.masked_fill_(moment.abs() < 1e-30, 0.0)

    def _whole_step(self, *batch: Any) -> tuple[Tensor, ...]:
        loss = self.loss(*batch)
        # The two losses may share a graph.
        trained = _gradients(loss.mean, self.trained, retain_graph=loss.auxiliary is not None)
        own = (
            _gradients(loss.auxiliary, self.auxiliary.parameters)
            if loss.auxiliary is not None
            else []
        )
        with torch.no_grad():
            self._update(_unzip(trained), loss, _unzip(own))
        return (loss.mean.detach(),)

    def _local_gradient(self, *batch: Any) -> tuple[Tensor, ...]:
        """This process's loss, and one vector of all that is summed over the processes."""
        loss = self.loss(*batch)
        trained = _gradients(loss.mean, self.trained)
        # Set by the first call, which is always eager, and the same in all processes.
        self._with_gradient = [p for p, _ in trained]
        self._logged = list(loss.sums)
        counts = (loss.weight > 0) * torch.stack([total.float() for total in loss.sums.values()])
        means = loss.weight * torch.cat([*(g.flatten() for _, g in trained), loss.mean.view(1)])
        data = means.new_full((1,), int(loss.count) if loss.weight > 0 else 0)
        return loss.mean.detach(), torch.cat([means.detach(), data, counts])

    def _reduced_step(self, local: Tensor) -> Tensor:
        """Sum the vectors of all processes, and take the step."""
        # A graph may use the buffers of its outputs again.
        whole = local.clone()
        self.processes.add(whole)
        sizes = [parameter.numel() for parameter in self._with_gradient]
        *flat, mean, data, sums = whole.split([*sizes, 1, 1, len(self._logged)])
        gradients = [g.view_as(p) for g, p in zip(flat, self._with_gradient, strict=True)]
        logged = dict(zip(self._logged, sums.double(), strict=True))
        with torch.no_grad():
            self._update((self._with_gradient, gradients), Loss(mean[0], data[0].long(), logged))
        return mean[0]

    def _update(
        self,
        trained: tuple[list[Tensor], list[Tensor]],
        loss: Loss,
        own: tuple[list[Tensor], list[Tensor]] = ([], []),
    ) -> None:
        """Update parameters by their gradients, unless something is not finite."""
        parameters, gradients = trained
        norms = torch.stack([*_norms(gradients)])
        if self.clip_norm is not None:
            # As in torch.nn.utils.clip_grad_norm_.
            scale = (self.clip_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1)
            gradients = [gradient * scale for gradient in gradients]
        finite = loss.mean + norms.sum()
        if own[0]:
            finite = finite + torch.stack([*_norms(own[1])]).sum()
        # A number times 0 is 0, and is NaN if it is not finite.
        taken = (finite * 0 == 0) & (self.totals.in_a_row < MAX_SKIPPED_IN_A_ROW)
        for place, (leaves, slopes) in enumerate(((parameters, gradients), own)):
            if leaves:
                self._adam(place, leaves, slopes, taken)
        self.totals.add(taken, loss.count, loss.sums)

    def _adam(
        self, place: int, parameters: list[Tensor], gradients: list[Tensor], taken: Tensor
    ) -> None:
        """Adam's update of one parameter group, if the step is taken."""
        moments = [self.optimizer.state[parameter] for parameter in parameters]
        group, steps = self.optimizer.param_groups[place], self._steps[place]
        skipped = (~taken).to(torch.float32)
        tensors = (
            parameters,
            gradients,
            [moment["exp_avg"] for moment in moments],
            [moment["exp_avg_sq"] for moment in moments],
            [],
            [moment["step"] for moment in moments],
        )
        options: dict[str, Any] = {
            "found_inf": skipped,
            "amsgrad": False,
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
            "lr": self._lrs[place],
            "weight_decay": 0.0,
            "eps": group["eps"],
            "maximize": False,
        }
        if len(parameters) < len(steps) or len({parameter.dtype for parameter in parameters}) > 1:
            adam(*tensors, fused=True, **options)
            return
        # The same with all counts of steps at once.
        steps.add_(1)
        torch._fused_adam_(*tensors, **options)  # pyright: ignore[reportPrivateImportUsage]
        steps.sub_(skipped)

    def _initialise_moments(self) -> None:
        """Create the optimizer's state, as its first step would, unless it was loaded."""
        for parameter in self.parameters.values() if not self.optimizer.state else ():
            # Fused Adam counts steps in float32, whatever the default type is.
            count = torch.zeros((), dtype=torch.float32, device=parameter.device)
            means = [torch.zeros_like(parameter, requires_grad=False) for _ in range(2)]
            self.optimizer.state[parameter] = dict(
                zip(("step", "exp_avg", "exp_avg_sq"), (count, *means), strict=True)
            )
        self._steps.clear()
        for group in self.optimizer.param_groups:
            states = [self.optimizer.state[parameter] for parameter in group["params"]]
            steps = torch.stack([state["step"] for state in states])
            for state, count in zip(states, steps.unbind(), strict=True):
                state["step"] = count
            self._steps.append(steps)

    def _changed_tensors(self) -> dict[str, Tensor]:
        """The tensors to compare; a gradient shows in the mean that it moves."""
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
    """Each parameter that a loss depends on, with its gradient."""
    leaves = list(parameters.values())
    found = torch.autograd.grad(loss, leaves, retain_graph=retain_graph, allow_unused=True)
    both = zip(leaves, found, strict=True)
    return [(parameter, gradient) for parameter, gradient in both if gradient is not None]


def _norms(tensors: list[Tensor]) -> Sequence[Tensor]:
    """The 2-norm of each tensor, by one operation."""
    return torch._foreach_norm(tensors)  # pyright: ignore[reportPrivateImportUsage]


def _unzip(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and gradients, these in the parameters' layout, which fused Adam requires."""
    gradients = [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in pairs]
    return [p for p, _ in pairs], gradients
