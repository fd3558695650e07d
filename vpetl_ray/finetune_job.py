"""One config, once for each seed, from a checked request to its results."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.finetune_display import FinetuneDisplay
from vpetl_ray.finetune_source import Chosen
from vpetl_ray.job_steps import (
    connect,
    list_videos,
    prepare_clips,
    seconds_for_tracking,
    setup_groups,
    tracking_store,
)
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.profile_table import PROFILE_FOLDER
from vpetl_ray.results.environment import environment_facts
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.results.seed_files import FinetuneFacts, SeedFiles
from vpetl_ray.results.tracking import RunStatus, Tracker, TrackingInfo, TrackingReport
from vpetl_ray.results_folder import claimed
from vpetl_ray.spec.search_spec import spaced
from vpetl_ray.tuning.cluster import GroupPlan
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.seed_runs import SeedRuns, runs_of
from vpetl_ray.tuning.trial_protocol import GroupSetup
from vpetl_ray.tuning.worker_group import worker_groups


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """How it ended, for the door to say."""

    records: tuple[TrialRecord, ...]
    """Of the seeds that ended, failed ones among them."""
    is_whole: bool
    """Nobody interrupted it."""
    facts: FinetuneFacts
    tracking: TrackingReport


class FinetuneJob:
    """Trains a config with several seeds, on one cluster, into one folder.

    Args:
        chosen: what to train.
        seeds: of data order, views and initial values.
        directory: the results folder; made once the input is known to be right.
        address: of a Ray cluster, None for a private one.
        console: where to show how far it is.
        profile: whether to write where the time of the first seed goes.

    Attributes:
        decode_seconds: what getting the clips ready took; next to nothing where it was done before.
    """

    def __init__(
        self,
        chosen: Chosen,
        seeds: Sequence[int],
        directory: Path,
        *,
        address: str | None,
        console: Console,
        profile: bool = False,
    ) -> None:
        self.decode_seconds = 0.0
        self._profile = directory / PROFILE_FOLDER if profile else None
        self._chosen = chosen
        self._spec = chosen.spec
        self._seeds = tuple(seeds)
        self._directory = directory
        self._address = address
        self._display = FinetuneDisplay(console, name=chosen.spec.name, num_seeds=len(seeds))

    def run(self) -> FinetuneResult:
        """Train.

        Raises:
            SpecError, DataError, CheckpointError: the input is wrong; nothing was created.
            SearchError: it cannot go on; what was finished is kept.
        """
        with ExitStack() as stack:
            stack.enter_context(self._display)
            data = self._spec.data_config().multi_view()
            videos = list_videos(data, self._display)
            self._spec.check_classes(len(videos.classes))
            start = time.monotonic()
            store = prepare_clips(data, self._display, videos=videos, address=self._address)
            self.decode_seconds = time.monotonic() - start
            facts = self._facts(store)
            self._display.note(_views_sentence(facts))
            setup = setup_groups(self._spec, store, profile=self._profile)
            self._display.stage("starting Ray")
            plan = connect(stack, self._spec, self._address, at_most=len(self._seeds))
            stack.enter_context(claimed(self._directory, self._spec))
            return self._train(stack, facts, setup, plan)

    def _train(
        self, stack: ExitStack, facts: FinetuneFacts, setup: GroupSetup, plan: GroupPlan
    ) -> FinetuneResult:
        """Everything from here on is kept, however it ends."""
        self._display.stage(f"starting {plan.sentence}")
        dispatcher = start_dispatcher(stuck_seconds=plan.stuck_seconds)
        stack.enter_context(worker_groups(setup, plan, dispatcher)).wait_for_first()
        recipe, is_probe = self._chosen.config.recipe, self._chosen.config.is_probe
        self._display.begin(
            num_epochs=recipe.probe_epochs if is_probe else recipe.epochs,
            num_views=facts.views["total"],
        )
        tracker = Tracker(
            self._tracking_info(facts), warn=self._display.note, directory=self._directory
        )
        tracker.start()
        status: RunStatus = "FAILED"
        try:
            files = SeedFiles(self._directory, facts=facts, tracker=tracker)
            runs = SeedRuns(
                dispatcher,
                runs_of(self._chosen.config, self._seeds, self._blank(facts)),
                num_concurrent=plan.num_groups,
                observers=[self._display, files],
                keep_tensors=files.keep_tensors,
            )
            is_whole = runs.run()
            if not is_whole:
                status = "KILLED"
            elif all(record.state is TrialState.COMPLETE for record in files.records):
                status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracking = tracker.finish(status, timeout=seconds_for_tracking(status))
        return FinetuneResult(
            records=tuple(files.records), is_whole=is_whole, facts=facts, tracking=tracking
        )

    def _facts(self, store: ClipStore) -> FinetuneFacts:
        spec, config = self._spec, self._chosen.config
        num_classes = len(store.classes)
        count = count_trainable(config.petl, spec.arch, num_classes)
        num_views = store.split("test", spec.data_config().view_spec()).num_views
        segments = store.manifest.clip_spec.segments("test")
        return FinetuneFacts(
            name=spec.name,
            origin=self._chosen.origin,
            backbone=spec.arch.name,
            num_classes=num_classes,
            config=config.petl.to_dict(),
            training=config.recipe.to_dict(),
            counts=dict(count.parts),
            views={"segments": segments, "crops": num_views // segments, "total": num_views},
            intro=(
                f"**{spec.name}**: {config.describe()}, {spaced(count.total)} trainable "
                f"parameters, on {spec.data.source} data with {num_classes} classes; "
                f"{origin_label(self._chosen)}."
            ),
        )

    def _blank(self, facts: FinetuneFacts) -> TrialRecord:
        return TrialRecord(
            id="seed",
            number=0,
            state=TrialState.COMPLETE,
            trainable_params=facts.trainable_params,
            config=self._chosen.columns,
        )

    def _tracking_info(self, facts: FinetuneFacts) -> TrackingInfo:
        spec, origin = self._spec, self._chosen.origin
        uri, artifacts = tracking_store(spec, self._directory)
        settings = {"backbone": facts.backbone, "data": spec.data.source}
        if len(self._seeds) > 1:
            settings["seeds"] = ", ".join(map(str, self._seeds))
        return TrackingInfo(
            kind="finetune",
            only=f"seed{self._seeds[0]}" if len(self._seeds) == 1 else None,
            search_id=uuid.uuid4().hex,
            name=spec.name,
            uri=uri,
            artifact_location=artifacts,
            experiment=spec.tracking.experiment,
            spec_text=spec.to_yaml(),
            settings={**settings, "views": facts.views["total"], **self._chosen.columns},
            columns=("seed",),
            environment=environment_facts(),
            description=facts.intro,
            tags={f"vpetl.from_{key}": value for key, value in origin.items()},
        )


def origin_label(chosen: Chosen) -> str:
    """Say where the config comes from: `trial t0007 of the search position_scale`."""
    origin = chosen.origin
    if "trial" in origin:
        return f"trial {origin['trial']} of the search {origin['search']}"
    return f"from {origin.get('spec') or origin.get('config')}"


def _views_sentence(facts: FinetuneFacts) -> str:
    segments, crops, total = (facts.views[key] for key in ("segments", "crops", "total"))
    if total == 1:
        return "multi-view test: 1 view a clip, which shows all there is of it"
    parts = f"{_counted(segments, 'segment')} x {_counted(crops, 'crop')}"
    return f"multi-view test: {parts} = {total} views a clip"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
