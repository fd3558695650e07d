"""A search from a checked spec to its front: every part is started, watched and ended here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

from rich.console import Console

from vpetl_ray.console import SearchDisplay
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.decode_words import skipped_sentence
from vpetl_ray.job_steps import (
    connect,
    data_facts,
    list_videos,
    prepare_clips,
    seconds_for_tracking,
    setup_groups,
    tracking_store,
)
from vpetl_ray.models.arch import count_backbone
from vpetl_ray.profile_table import PROFILE_FOLDER
from vpetl_ray.results.environment import environment_facts
from vpetl_ray.results.front import front_of
from vpetl_ray.results.front_facts import FrontFacts
from vpetl_ray.results.labels import path_label
from vpetl_ray.results.model_card import CardFacts
from vpetl_ray.results.objectives import Known, references
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.results.search_files import SearchFacts, SearchFiles
from vpetl_ray.results.tracking import RunStatus, Tracker, TrackingInfo, TrackingReport
from vpetl_ray.results_folder import CHECKPOINT_FOLDER, STUDY_FILE, claimed
from vpetl_ray.spec.dry_run import frozen_sentence
from vpetl_ray.spec.search_spec import SearchSpec, spaced
from vpetl_ray.stop_signals import ended_by
from vpetl_ray.tuning.budgeted_study import BudgetedStudy
from vpetl_ray.tuning.cluster import GroupPlan
from vpetl_ray.tuning.cost_counter import CostCounter
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.group_watch import GroupWatch
from vpetl_ray.tuning.messages import DispatcherHandle
from vpetl_ray.tuning.run import (
    DispatcherLost,
    TestedTrials,
    TrialsEnd,
    measure_test,
    run_trials,
)
from vpetl_ray.tuning.rung_checkpoints import RungCheckpoints
from vpetl_ray.tuning.searcher import SearchObserver
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.trial_protocol import GroupSetup
from vpetl_ray.tuning.worker_group import worker_groups


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """How a search ended, for the door to say."""

    front: tuple[TrialRecord, ...]
    """Cheapest first, with test accuracies where the search was not interrupted."""
    records: tuple[TrialRecord, ...]
    """Of every trial, in the order in which they were proposed."""
    end: TrialsEnd
    num_trained: int
    tracking: TrackingReport
    last_failure: str | None
    facts: FrontFacts
    findings: tuple[str, ...]
    """What mattered, in a few lines."""


MAX_LOST_DISPATCHERS = 3
"""How often a search goes on from its study by itself; then there is something wrong."""


def _telling(space: Space) -> tuple[str, ...]:
    """The searched paths, which get a column in MLflow's tables; the others are all the same."""
    return tuple(path for path in space.searched if not path.endswith(".enabled"))


def _lacking(store: ClipStore) -> str:
    """Say which videos the store lacks, as a further sentence."""
    sentence = skipped_sentence(store.skipped, store.manifest.num_videos)
    return f" {sentence}." if sentence else ""


@contextmanager
def _ending(*stacks: ExitStack) -> Iterator[None]:
    """End what is needed no more while the last files are written, the first of `stacks` first."""

    def close_all() -> None:
        for stack in stacks:
            stack.close()

    with ThreadPoolExecutor(1, thread_name_prefix="vpetl-end") as ender:
        ended = ender.submit(close_all)
        yield
        ended.result()


class SearchJob:
    """One search on one cluster, into one folder.

    Args:
        spec: checked.
        directory: the results folder; made once the input is known to be right.
        address: of a Ray cluster, None for a private one.
        console: where to show how far it is.
        profile: whether to write where the time of the first trial goes.

    Attributes:
        decode_seconds: what getting the clips ready took; next to nothing where it was done before.
    """

    def __init__(
        self,
        spec: SearchSpec,
        directory: Path,
        *,
        address: str | None,
        console: Console,
        profile: bool = False,
    ) -> None:
        self.decode_seconds = 0.0
        self._profile = directory / PROFILE_FOLDER if profile else None
        self._spec = spec
        self._directory = directory
        self._address = address
        self._display = SearchDisplay(console, name=spec.name)

    def run(self) -> SearchResult:
        """Search.

        Raises:
            SpecError, DataError, CheckpointError: the input is wrong; nothing was created.
            SearchError: the search cannot go on; its state is kept.
        """
        with ExitStack() as stack:
            stack.enter_context(self._display)
            data = self._spec.data_config()
            videos = list_videos(data, self._display)
            self._spec.check_budget(len(videos.classes))
            start = time.monotonic()
            store = prepare_clips(data, self._display, videos=videos, address=self._address)
            self.decode_seconds = time.monotonic() - start
            if self._spec.data_config().view_spec().num_train_views is None:
                self._display.note(f"frozen layers: {frozen_sentence(self._spec)}")
            measured = self._spec.costs(Known.MEASURED)
            setup = setup_groups(self._spec, store, measured=measured, profile=self._profile)
            self._display.stage("starting Ray")
            ray_stack = stack.enter_context(ExitStack())
            plan = connect(ray_stack, self._spec, self._address, shares=True)
            stack.enter_context(claimed(self._directory, self._spec))
            for _ in range(MAX_LOST_DISPATCHERS):
                try:
                    return self._search(store, setup, plan, ray_stack)
                except DispatcherLost as error:
                    self._display.note(f"{error}: it goes on from its study")
            return self._search(store, setup, plan, ray_stack)

    def _search(
        self, store: ClipStore, setup: GroupSetup, plan: GroupPlan, ray_stack: ExitStack
    ) -> SearchResult:
        """Everything from here on is kept, however it ends.

        Raises:
            DispatcherLost: to be called again: the study has what was finished.
        """
        with ExitStack() as group_stack:
            return self._search_on(group_stack, store, setup, plan, ray_stack)

    def _search_on(
        self,
        group_stack: ExitStack,
        store: ClipStore,
        setup: GroupSetup,
        plan: GroupPlan,
        ray_stack: ExitStack,
    ) -> SearchResult:
        num_classes = len(store.classes)
        self._display.stage(f"starting {plan.sentence}")
        dispatcher = start_dispatcher(stuck_seconds=plan.stuck_seconds)
        self._start_groups(group_stack, setup, plan, dispatcher)
        observers: list[SearchObserver] = [self._display]
        counter = self._counter(store)
        study = self._open_study(num_classes, observers, counter)
        num_trials = self._spec.num_trials(num_classes)
        self._display.begin(study.records, plan.num_groups, num_trials)
        tracker = Tracker(
            self._tracking_info(study, store), warn=self._display.note, directory=self._directory
        )
        tracker.start()
        files = SearchFiles(
            self._directory,
            columns=study.columns,
            facts=self._facts(store, counter),
            tracker=tracker,
            records=study.records,
            keeps_all=self._spec.search.test == "all",
            warn=self._display.note,
        )
        observers.append(files)
        status: RunStatus = "FAILED"
        is_over = False
        try:
            end = run_trials(
                study,
                dispatcher,
                num_trials=num_trials,
                num_concurrent=plan.num_groups,
                max_minutes=self._spec.search.max_minutes,
                observers=observers,
                keep_tensors=files.keep_tensors,
                halving=self._spec.halving(),
                checkpoints=RungCheckpoints(self._directory / CHECKPOINT_FOLDER),
                grows=plan.grows,
            )
            status = "KILLED" if end is TrialsEnd.INTERRUPTED else "FINISHED"
            if end is not TrialsEnd.INTERRUPTED:
                which: TestedTrials = self._spec.search.test
                what = "the front" if which == "front" else "all trials"
                self._display.stage(f"measuring {what} on the test split")
                measure_test(
                    study,
                    dispatcher,
                    files.read_tensors,
                    which=which,
                    num_concurrent=plan.num_groups,
                    on_record=files.on_record,
                )
            is_over = True
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with _ending(group_stack, ray_stack) if is_over else nullcontext():
                try:
                    # Who sends SIGTERM does not wait; who goes on writes it all.
                    files.close(brief=status == "KILLED" and ended_by() == SIGTERM)
                finally:
                    tracking = tracker.finish(status, timeout=seconds_for_tracking(status))
        files.discard_dominated()
        failures = [r.reason for r in study.records if r.state is TrialState.FAILED]
        front = front_of(study.records)
        return SearchResult(
            front=tuple(front),
            facts=files.front_facts(front),
            findings=files.findings,
            records=tuple(study.records),
            end=end,
            num_trained=study.num_trained,
            tracking=tracking,
            last_failure=failures[-1] if failures else None,
        )

    def _start_groups(
        self, stack: ExitStack, setup: GroupSetup, plan: GroupPlan, dispatcher: DispatcherHandle
    ) -> None:
        groups = stack.enter_context(worker_groups(setup, plan, dispatcher))
        if plan.grows:
            # Before the first group is there: other searches give room to those that they know of.
            watch = GroupWatch(groups, plan, dispatcher, self._display.note)
            stack.callback(watch.stop)
            watch.start()
        groups.wait_for_first()

    def _counter(self, store: ClipStore) -> CostCounter:
        data = self._spec.data_config()
        size = data.view_spec().size
        return CostCounter(
            self._spec.costs(),
            arch=self._spec.arch,
            classes=store.classes,
            clip=(data.clip_spec().frames, size, size),
            seed=self._spec.seed,
            facts=data_facts(self._spec),
        )

    def _open_study(
        self, num_classes: int, observers: list[SearchObserver], counter: CostCounter
    ) -> BudgetedStudy:
        spec = self._spec

        def tell_all(record: TrialRecord) -> None:
            for observer in observers:
                observer.on_record(record)

        plan = spec.start_plan(num_classes)
        for name, reason in plan.left_out.items():
            self._display.note(f"start config {name} is left out: {reason}")
        return BudgetedStudy(
            self._directory / STUDY_FILE,
            space=spec.space(num_classes),
            budget=spec.budget_limit(num_classes),
            sampler=spec.search.sampler,
            seed=spec.seed,
            start=plan.trials,
            on_record=tell_all,
            max_rejects=spec.search.max_rejects,
            over_budget=spec.search.over_budget,
            told=spec.search.told,
            costs=spec.costs(),
            count_costs=counter,
        )

    def _facts(self, store: ClipStore, counter: CostCounter) -> SearchFacts:
        spec, num_classes = self._spec, len(store.classes)
        summary = spec.space(num_classes).summary()
        return SearchFacts(
            name=spec.name,
            backbone=spec.arch.name,
            backbone_params=count_backbone(spec.arch),
            budget=spec.given_budget,
            data=spec.data.source,
            card=self._card_facts(store),
            references=references(
                spec.costs(),
                backbone_params=count_backbone(spec.arch),
                backbone_flops=counter.backbone_flops,
            ),
            intro=(
                f"Search **{spec.name}**: where and how to adapt a frozen {spec.arch.name} "
                f"({spaced(count_backbone(spec.arch))} parameters) to {spec.data.source} data with "
                f"{num_classes} classes. The space has {summary.size_text}.{_lacking(store)}"
            ),
        )

    def _card_facts(self, store: ClipStore) -> CardFacts:
        spec = self._spec
        return CardFacts(
            search=spec.name,
            folder=path_label(self._directory),
            data=spec.data.source,
            data_path=spec.data.path,
            num_clips={split: seal.num_clips for split, seal in store.manifest.files.items()},
            classes=tuple(store.classes),
            backbone=spec.arch.name,
            backbone_params=count_backbone(spec.arch),
            weights=str(spec.backbone.weights),
            seed=spec.seed,
            environment=environment_facts(),
        )

    def _tracking_info(self, study: BudgetedStudy, store: ClipStore) -> TrackingInfo:
        spec, num_classes = self._spec, len(store.classes)
        uri, artifacts = tracking_store(spec, self._directory)
        return TrackingInfo(
            search_id=study.search_id,
            name=spec.name,
            uri=uri,
            artifact_location=artifacts,
            experiment=spec.tracking.experiment,
            spec_text=spec.to_yaml(),
            settings={
                "backbone": spec.arch.name,
                "data": spec.data.source,
                "clip_store": store.path.name,
                "skipped_videos": len(store.skipped),
                "budget": spec.given_budget or "no limit",
                "sampler": spec.search.sampler,
                "trials": spec.num_trials(num_classes),
                "seed": spec.seed,
                **({"objectives": ", ".join(spec.objectives)} if spec.costs() else {}),
                "space": spec.space(num_classes).summary().size_text,
            },
            columns=_telling(spec.space(num_classes)),
            environment=environment_facts(),
            description=self._facts(store, self._counter(store)).intro,
            costs=spec.costs(),
        )
