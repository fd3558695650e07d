"""What a search would do, without doing any of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vpetl_ray.data.config import DEFAULT_VIEWS
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.flops import count_forward_flops, share_below
from vpetl_ray.spec.search_spec import SearchSpec, spaced
from vpetl_ray.tuning.cluster import GroupPlan, plan_groups
from vpetl_ray.tuning.fair_shares import Claim, plan_beside
from vpetl_ray.tuning.space_size import SpaceSummary
from vpetl_ray.tuning.start import StartPlan


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The facts that `--dry-run` prints."""

    spec_yaml: str
    """The resolved spec, every default filled in."""
    summary: SpaceSummary
    """Size and costs of the space."""
    budget: int | None
    """Most trainable parameters allowed; None is no limit."""
    num_trials: int
    """Configs that would be trained."""
    is_list: bool
    """Whether the start configs are all of them."""
    start: StartPlan
    """What is tried first."""
    start_counts: Mapping[str, int]
    """Trainable parameters of each start config."""
    groups: GroupPlan
    """The worker groups that would be started."""
    early_stopping: str | None
    """How many trials would go on at each rung; None where every one is trained to its end."""
    frozen: str
    """What frozen layers compute once."""
    sharing: str | None = None
    """Whether several trials would do well to share a GPU, in a sentence."""
    precision: str | None = None
    """Whether bf16 would make steps shorter on this machine's CPU, in a sentence."""

    def text(self) -> str:
        """Write the facts below the spec, one a line."""
        return "\n".join(f"{name and name + ':':<22}{value}" for name, value in self.facts())

    def facts(self) -> list[tuple[str, str]]:
        """Return name and value of each fact, in words."""
        return [
            *(self._list_facts() if self.is_list else self._space_facts()),
            ("trials", spaced(self.num_trials)),
            *([("early stopping", self.early_stopping)] if self.early_stopping else []),
            ("frozen layers", self.frozen),
            ("workers", self.groups.sentence),
            *([("small trials", self.sharing)] if self.sharing else []),
            *([("precision", self.precision)] if self.precision else []),
        ]

    def _list_facts(self) -> list[tuple[str, str]]:
        """Give each row a line of its own: a list is read, and its space is not searched."""
        rows = [f"{name} ({spaced(n)})" for name, n in self.start_counts.items()]
        names = ["the list", *[""] * (len(rows) - 1)]
        limit = "no limit" if self.budget is None else spaced(self.budget)
        return [("budget", limit), *zip(names, rows, strict=True)]

    def _space_facts(self) -> list[tuple[str, str]]:
        summary = self.summary
        about = "" if summary.exact else "about "
        low, mid, high = (spaced(n) for n in (summary.smallest, summary.median, summary.largest))
        share = f"{_percent(summary.share_within_budget, about)} of the space"
        limit = "no limit" if self.budget is None else f"{spaced(self.budget)}, allows {share}"
        first = ", ".join(f"{name} ({spaced(n)})" for name, n in self.start_counts.items())
        return [
            ("search space", summary.size_text),
            ("trainable parameters", f"smallest {low}, median {about}{mid}, largest {high}"),
            ("budget", limit),
            ("tried first", first or "nothing"),
            *(("left out", f"{name}: {why}") for name, why in self.start.left_out.items()),
        ]


def plan_dry_run(
    spec: SearchSpec,
    *,
    num_classes: int | None = None,
    nodes: Sequence[Mapping[str, float]] | None = None,
    others: Sequence[Claim] = (),
) -> DryRun:
    """Work out what a search of this spec would do.

    Args:
        spec: the spec.
        num_classes: of the data; by default what the spec says.
        nodes: CPU and GPU of each node; by default this machine.
        others: searches that share them.

    Raises:
        SpecError: the number of classes is not known, or the budget is too small.
        SearchError: not even one worker group fits.
    """
    spec.check_budget(num_classes)
    space = spec.space(num_classes)
    start = spec.start_plan(num_classes)
    resources, halving = spec.resources, spec.halving()
    num_trials = spec.num_trials(num_classes)
    is_here = not nodes
    nodes = nodes or [this_machine()]
    groups = plan_groups(
        nodes,
        num_groups=None if resources.groups == "auto" else resources.groups,
        workers_per_group=resources.workers_per_group,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=(
            None if resources.gpus_per_worker == "auto" else resources.gpus_per_worker
        ),
        placement=resources.placement,
    )
    if others:
        groups = plan_beside(groups, others, nodes)
    return DryRun(
        spec_yaml=spec.to_yaml(),
        summary=space.summary(spec.given_budget),
        budget=spec.given_budget,
        num_trials=num_trials,
        is_list=spec.is_list,
        start=start,
        start_counts={t.name: space.count(space.build(t.values)) for t in start.trials},
        early_stopping=halving.sentence(num_trials, spec.fewest_epochs) if halving else None,
        frozen=frozen_sentence(spec),
        groups=groups,
        sharing=sharing_sentence(spec, groups),
        precision=precision_sentence(spec, groups) if is_here else None,
    )


def frozen_sentence(spec: SearchSpec) -> str:
    """Say what is computed once and kept, or what would be, were views fixed."""
    data, arch = spec.data_config(), spec.arch
    view = data.view_spec()
    clip = (data.clip_spec().frames, view.size, view.size)
    share = f"{100 * share_below(arch, arch.num_stages - 1, clip):.0f}%"
    if view.num_train_views is None:
        return (
            "run anew in every epoch, as data.views is free; with "
            f"data.views={DEFAULT_VIEWS} a config of the last stage alone would save {share} of "
            "its forward passes from the second round of views on, a linear probe all of them"
        )
    views = "1 view" if view.num_train_views == 1 else f"{view.num_train_views} views"
    what = f"{views} of a clip run through them once; {share} of a forward pass is below the last"
    if not spec.resources.features_gb:
        return f"{what} stage; kept in memory by each worker"
    return f"{what} stage; kept on disk, up to {spec.resources.features_gb:g} GB"


SMALL_STEP_FLOPS = ((0.1e12, 8), (0.3e12, 4), (1e12, 2))
"""Up to so many FLOPs a step, so many trials share a GPU well. A step launches one to two thousand
kernels, 10 ms of work for the host; a fast GPU does 1 TFLOP in less. Arithmetic, not measured."""


def sharing_sentence(spec: SearchSpec, groups: GroupPlan) -> str | None:
    """Say that a step is too small for a GPU of its own, where it is."""
    if groups.gpus_per_worker != 1 or groups.workers_per_group > 1:
        return None
    data = spec.data_config()
    size = data.view_spec().size
    clip = (data.clip_spec().frames, size, size)
    batch = max(int(member) for member in spec.training.batch_size.members())  # type: ignore[arg-type]
    flops = 3 * batch * count_forward_flops(PetlConfig(), spec.arch, 2, clip)
    shares = next((number for limit, number in SMALL_STEP_FLOPS if flops <= limit), 1)
    if shares == 1:
        return None
    return (
        f"a step of {batch} clips is about {flops / 1e9:.2g} GFLOP, too little for a GPU: "
        f"resources.gpus_per_worker={1 / shares:g} would let {shares} trials share one"
    )


def precision_sentence(spec: SearchSpec, groups: GroupPlan) -> str | None:
    """Say that this machine's CPU multiplies bf16 by itself, where steps run in fp32 on it."""
    precisions = set(spec.training.precision.members())
    if groups.gpus_per_worker or precisions != {"fp32"} or not multiplies_bf16():
        return None
    return "this CPU multiplies bf16: training.precision=bf16 would make steps shorter"


def multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX; without them bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def this_machine() -> dict[str, float]:
    """Return the CPUs and GPUs of this machine as Ray would count them."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _percent(share: float, about: str) -> str:
    """Write a share so that almost all is not all, and almost none is not none."""
    if 0 < share < 0.001:
        return "less than 0.1%"
    if 0.999 < share < 1:
        return "more than 99.9%"
    return f"{about}{100 * share:.1f}%"
