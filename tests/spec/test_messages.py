"""What a user reads: one line a mistake, with file, line, key, value and what is allowed."""

import os
from pathlib import Path

import pytest

from vpetl_ray.errors import SpecError
from vpetl_ray.spec.load import load_spec

PATT = """\
name: x
petl:
  patt:
    targets: TARGETS
    d_bottle: WIDTH
    stages: STAGES
training:
  learning_rate: 1e-2
  epochs: 2
  batch_size: 8
"""
DEFAULTS = {"TARGETS": "[k, v]", "WIDTH": "4", "STAGES": "all"}


def patt(**changes):
    text = PATT
    for name, value in (DEFAULTS | changes).items():
        text = text.replace(name, value)
    return text


def test_three_mistakes_in_one_file(mistakes):
    text = patt(TARGETS="{subset: [q, k, x]}", STAGES="[1, 5]") + (
        "budget: {trainable_params: 1000}\n"
    )
    assert mistakes(text) == [
        "x.yaml:4: petl.patt.targets: 'x' is not one of q, k, v",
        "x.yaml:6: petl.patt.stages: 5 is not one of 1, 2, 3 (the stages of swin3d_nano)",
        "x.yaml:11: budget.trainable_params: must be at least 1 548 (the smallest config of this "
        "space: linear probe), got 1 000",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            patt(WIDTH="{choice: []}"),
            "x.yaml:5: petl.patt.d_bottle: an empty choice; list at least one value, "
            "each a whole number from 1 to 65 536",
            id="empty choice",
        ),
        pytest.param(
            patt(TARGETS="{subset: []}"),
            "x.yaml:4: petl.patt.targets: an empty subset; it needs a list of q, k, v",
            id="empty subset",
        ),
        pytest.param(
            patt(WIDTH="{int: [32, 2]}"),
            "x.yaml:5: petl.patt.d_bottle: the range runs from 32 down to 2; "
            "write the smaller first",
            id="reversed range",
        ),
        pytest.param(
            patt(WIDTH="{int: [0, 2], log: true}"),
            "x.yaml:5: petl.patt.d_bottle: a log range must start above 0, got 0",
            id="log range from 0",
        ),
        pytest.param(
            patt(WIDTH="{int: [2, 8], step: 0}"),
            "x.yaml:5: petl.patt.d_bottle: step must be a whole number of at least 1, got 0",
            id="step 0",
        ),
        pytest.param(
            patt(WIDTH="{int: [2, 8], min: 0}"),
            "x.yaml:5: petl.patt.d_bottle: unknown key 'min'; beside int there can be log, step",
            id="option of another domain",
        ),
        pytest.param(
            patt(WIDTH="{float: [2, 8]}"),
            "x.yaml:5: petl.patt.d_bottle: cannot be {float: ...}; write {choice: ...} or "
            "{int: ...}, or a whole number from 1 to 65 536",
            id="float for a width",
        ),
        pytest.param(
            patt(WIDTH="wide"),
            "x.yaml:5: petl.patt.d_bottle: must be a whole number from 1 to 65 536, got 'wide'",
            id="word for a number",
        ),
        pytest.param(
            patt(WIDTH="true"),
            "x.yaml:5: petl.patt.d_bottle: must be a whole number from 1 to 65 536, got true",
            id="true for a number",
        ),
        pytest.param(
            patt(WIDTH=""),
            "x.yaml:5: petl.patt.d_bottle: is empty; give it a value or leave the key out",
            id="no value",
        ),
        pytest.param(
            patt(WIDTH=".nan"),
            "x.yaml:5: petl.patt.d_bottle: must be a finite number, got .nan",
            id="not a number",
        ),
        pytest.param(
            patt(WIDTH="9" * 50),
            f"x.yaml:5: petl.patt.d_bottle: the number {'9' * 37}... is too long or too large",
            id="a number of 50 digits",
        ),
        pytest.param(
            patt(TARGETS="k"),
            "x.yaml:4: petl.patt.targets: must be a list of q, k, v, got 'k'",
            id="word for a list",
        ),
        pytest.param(
            patt(STAGES="{choice: [all, [3, 2, 1]]}"),
            "x.yaml:6: petl.patt.stages: 'all' and [1, 2, 3] are the same stages",
            id="all stages twice",
        ),
        pytest.param(
            patt() + "backbone: {arch: swin3d_b}\n",
            "x.yaml:11: backbone.weights: the demo's weights are for swin3d_nano; "
            "give the checkpoint of swin3d_b by path",
            id="demo weights for another architecture",
        ),
        pytest.param(
            patt() + "serach: {trials: 3}\n",
            "x.yaml:11: serach: unknown key; did you mean 'search'?",
            id="unknown section",
        ),
        pytest.param(
            patt() + "search: {trails: 3}\n",
            "x.yaml:11: search.trails: unknown key; did you mean 'trials'?",
            id="unknown key",
        ),
        pytest.param(
            patt() + "search: fast\n",
            "x.yaml:11: search: must be a section with keys such as trials, sampler, over_budget, "
            "start, only, told, halving, test, max_minutes, max_rejects; got 'fast'",
            id="word for a section",
        ),
        pytest.param(
            patt() + "seed: 1\nseed: 2\n",
            "x.yaml:12: seed: is given twice (first in line 11)",
            id="duplicate key",
        ),
        pytest.param(
            patt() + "seed: {choice: [1, 2]}\n",
            "x.yaml:11: seed: is not searched; give it one value",
            id="domain where none can be",
        ),
        pytest.param(
            patt() + "data: {source: folder}\n",
            "x.yaml:11: data.path: is missing; the source 'folder' needs the folder its videos "
            "are in",
            id="folder without a path",
        ),
        pytest.param(
            patt() + "data: {source: csv}\n",
            "x.yaml:11: data.path: is missing; the source 'csv' needs the CSV file that lists its "
            "videos",
            id="manifest without a path",
        ),
        pytest.param(
            patt() + "data: {source: ssv2, path: a, split: 2}\n",
            "x.yaml:11: data.split: is for hmdb51 alone, leave it out with 'ssv2'",
            id="option of another source",
        ),
        pytest.param(
            patt() + "data: {source: folder, path: a, size: 224, short_side: 112}\n",
            "x.yaml:11: data.short_side: must be at least data.size (224), got 112",
            id="clips smaller than the crop",
        ),
        pytest.param(
            patt() + "budget: {trainable_params: lots}\n",
            "x.yaml:11: budget.trainable_params: must be a count such as 45000, 120k or 5M, or a "
            "share of the backbone such as 2%, got 'lots'",
            id="budget in words",
        ),
        pytest.param(
            patt() + "budget: {trainable_params: 0.1%}\n",
            "x.yaml:11: budget.trainable_params: must be at least 7 844 (the smallest config of "
            "this space: patt(kv) 4), got 0.1% of 576 676 = 576",
            id="budget as a share below the smallest",
        ),
        pytest.param(
            patt() + "objectives: [top1, latency]\n",
            "x.yaml:11: objectives: 'latency' is not one of top1, trainable_params, adapter_bytes, "
            "forward_flops, latency_ms, peak_memory_mb, train_seconds; did you mean 'latency_ms'?",
            id="unknown objective",
        ),
        pytest.param(
            patt() + "objectives: [top1, trainable_params, latency_ms, latency_ms]\n",
            "x.yaml:11: objectives: 'latency_ms' is listed twice",
            id="repeated objective",
        ),
        pytest.param(
            patt() + "objectives: [top1, latency_ms]\n",
            "x.yaml:11: objectives: trainable_params is missing; must be a list of top1 and "
            "trainable_params, and any of adapter_bytes, forward_flops, latency_ms, "
            "peak_memory_mb, train_seconds",
            id="objective that is always one",
        ),
        pytest.param(
            patt() + "objectives: [top1, trainable_params, latency_ms]\nsearch: {sampler: ehvi}\n",
            "x.yaml:12: search.sampler: ehvi is for top1 and trainable_params alone; with "
            "further objectives use one of auto, tpe, random, nsga2, grid, list",
            id="sampler of two objectives",
        ),
        pytest.param(
            patt() + "resources: {workers_per_group: 16}\n",
            "x.yaml:10: training.batch_size: must be at least 16, one clip for each of "
            "resources.workers_per_group, got 8",
            id="more workers than clips",
        ),
        pytest.param(
            patt() + "search: {start: [linear_prob]}\n",
            "x.yaml:11: search.start: 'linear_prob' is not one of linear_probe, paper_adapter, "
            "paper_patt_kv, paper_swin_bapat; did you mean 'linear_probe'?",
            id="unknown start config",
        ),
        pytest.param(
            patt() + "search:\n  start:\n  - {name: a, petl: {patt: {d_bottle: 5}}}\n",
            "x.yaml:13: search.start: petl.patt.d_bottle: 5 is not a member of what is searched "
            "there",
            id="start config outside the space",
        ),
        pytest.param(
            patt(TARGETS="[]") + "  warmup_epochs: 2\n",
            "x.yaml:11: training.warmup_epochs: must be below training.epochs (2), got 2",
            id="longer warm-up than training",
        ),
        pytest.param(
            "name: x\ntraining: {learning_rate: 1, epochs: 1, batch_size: 1}\n"
            "petl: {classifier: {train: false}}\n",
            "x.yaml:3: petl: nothing is trained: no method is on and the classifier is frozen",
            id="nothing is trained",
        ),
        pytest.param(
            patt(WIDTH="{int: [1, 20000]}") + "search: {sampler: grid}\n",
            "x.yaml:11: search.sampler: a grid of this space has 20 000 configs, more than "
            "10 000; use random",
            id="a grid without end",
        ),
        pytest.param(patt() + "name2: {a: [}\n", "x.yaml:11: is not YAML: ", id="broken syntax"),
        pytest.param(b"name: \xff\xfe\n", "x.yaml:1: is not UTF-8 text", id="not text"),
        pytest.param("", "x.yaml: is empty; a spec starts with `name: ...`", id="empty file"),
        pytest.param("- a\n", "x.yaml:1: must be a mapping of sections, not a list", id="a list"),
        pytest.param(
            "a: &x [1]\nb: *x\n",
            "x.yaml:1: anchors and aliases (& and *) are not allowed",
            id="anchor",
        ),
        pytest.param(
            "a: !!python/object/apply:os.system [ls]\n",
            "x.yaml:1: tags (tag:yaml.org,2002:python/object/apply...) are not allowed",
            id="python tag",
        ),
        pytest.param(
            "a: " + "[" * 30 + "]" * 30, "x.yaml:1: is nested more than 16 deep", id="deep nesting"
        ),
        pytest.param("a: 1\n---\nb: 1\n", "x.yaml:2: a second document", id="two documents"),
        pytest.param("? [a]\n: 1\n", "x.yaml:1: a key must be a word", id="a list as key"),
        pytest.param("a: \x00\n", "x.yaml:1: has a character that YAML forbids", id="NUL"),
        pytest.param('a: "\\UFFFFFFFF"\n', "x.yaml", id="impossible escape"),
    ],
)
def test_message(mistakes, text, message):
    assert mistakes(text)[0].startswith(message), mistakes(text)


def test_unknown_architecture_names_the_nearest(mistakes):
    (line,) = mistakes(patt() + "backbone: {arch: swin3d_nona}\n")
    assert line.startswith(
        "x.yaml:11: backbone.arch: 'swin3d_nona' is not one of swin3d_nano, swin3d_t, swin3d_s, "
    )
    assert line.endswith("; did you mean 'swin3d_nano'?")


def test_missing_keys_say_what_they_must_be(mistakes):
    assert mistakes("name: x\npetl: {adapter: {}}\ntraining: {epochs: 3}\n") == [
        "x.yaml:2: petl.adapter.d_bottle: is missing; it must be a whole number from 1 to 65 536",
        "x.yaml:3: training.learning_rate: is missing; it must be a number above 0 and at most "
        "1000",
        "x.yaml:3: training.batch_size: is missing; it must be a whole number from 1 to 65 536",
    ]


def test_mistakes_in_overrides_say_so(mistakes):
    overrides = ["petl.pat.d_bottle=3", "petl.patt.d_bottle=0", "search.sampler=", "name=a b"]
    assert sorted(mistakes(patt(), *overrides)) == [
        "in --set: name: must be a name of letters, digits, '.', '_' and '-' that starts with a "
        "letter or digit, got 'a b'",
        "in --set: petl.pat: unknown key; did you mean 'patt'?",
        "in --set: petl.patt.d_bottle: must be a whole number from 1 to 65 536, got 0",
        "in --set: search.sampler: is empty; give it a value or leave the key out",
    ]


def test_mistake_inside_an_override_is_not_told_with_a_line_of_the_file(mistakes):
    text = patt(STAGES="{subset: [1, 2]}")
    assert mistakes(text, "petl.patt.stages={subset: [1, 9]}") == [
        "in --set: petl.patt.stages: 9 is not one of 1, 2, 3 (the stages of swin3d_nano)"
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trials", "in --set: must be key.path=value, got 'trials'"),
        ("a..b=1", "in --set: must be key.path=value, got 'a..b=1'"),
        ("seed=[1", "in --set: seed:1: is not YAML: "),
        ("seed=*a", "in --set: seed:1: anchors and aliases (& and *) are not allowed"),
    ],
)
def test_override_that_is_none(mistakes, override, message):
    assert mistakes(patt(), override)[0].startswith(message)


@pytest.mark.parametrize(
    "uri",
    ["postgresql://me:hunter2@host/db", "https://hunter2@host", "https://host/?token=hunter2"],
)
def test_a_secret_in_the_spec_is_refused_and_not_repeated(mistakes, uri):
    (line,) = mistakes(patt() + f"tracking: {{uri: '{uri}'}}\n")
    assert line.startswith("x.yaml:11: tracking.uri: holds a password or token; set MLFLOW_")
    assert "hunter2" not in line


def test_a_wrong_section_does_not_hide_mistakes_elsewhere(mistakes):
    lines = mistakes(patt() + "search: 3\nbudget: {trainable_params: 1}\n")
    assert [line.split(": ")[1] for line in lines] == ["search", "budget.trainable_params"]


def test_many_mistakes_are_cut_short(mistakes):
    text = patt() + "".join(f"key{i}: 1\n" for i in range(100))
    lines = mistakes(text)
    assert len(lines) == 41
    assert lines[-1] == "... and 60 more"


def test_a_file_that_cannot_be_read(write, tmp_path):
    with pytest.raises(SpecError, match=r"^none\.yaml: no such file$"):
        load_spec("none.yaml")
    with pytest.raises(SpecError, match="is a folder, not a search space file"):
        load_spec(tmp_path)
    if os.geteuid() != 0:
        path = write()
        path.chmod(0)
        with pytest.raises(SpecError, match="cannot be read: Permission denied"):
            load_spec(path)


def test_a_file_of_two_megabytes_is_refused(mistakes):
    assert "is larger than 1,000,000 bytes" in mistakes("a: " + "x" * 2_000_000)[0]


def test_missing_files_are_named(write):
    spec = load_spec(
        write(patt() + "data: {source: folder, path: vids}\nbackbone: {weights: w.pth}\n")
    )
    with pytest.raises(SpecError) as caught:
        spec.check_files()
    here = Path.cwd()
    lines = str(caught.value).split("\n")
    assert lines[:2] == [
        f"x.yaml:11: data.path: {here / 'vids'} does not exist; expected one of",
        f"  {here / 'vids'}/{{train,val,test}}/<class>/<video>.mp4",
    ]
    assert lines[-1] == f"x.yaml:12: backbone.weights: no file {here / 'w.pth'}"


def test_the_budget_is_checked_when_the_classes_are_known(write):
    spec = load_spec(
        write(
            patt(TARGETS="{subset: [k, v]}")
            + "data: {source: folder, path: .}\nbudget: {trainable_params: 2k}\n"
        )
    )
    spec.check_budget(num_classes=15)
    with pytest.raises(SpecError) as caught:
        spec.check_budget(num_classes=16)
    assert str(caught.value) == (
        "x.yaml:12: budget.trainable_params: must be at least 2 064 (the smallest config of this "
        "space: linear probe), got 2k = 2 000"
    )
    with pytest.raises(SpecError, match=r"^data\.num_classes: is needed"):
        spec.space()


def test_another_number_of_classes_than_stated(write):
    spec = load_spec(write(patt() + "data: {source: folder, path: ., num_classes: 5}\n"))
    with pytest.raises(SpecError, match=r"x\.yaml:11: data\.num_classes: the data has 6 classes"):
        spec.check_budget(num_classes=6)


def test_kinds_that_the_backbone_has_not_are_named(mistakes):
    text = "petl:\n  position: {kinds: {subset: [qkv, rel_pos]}}\n"
    lines = mistakes(
        text + "training: {learning_rate: 1, epochs: 1, batch_size: 1}\n",
        "backbone={arch: vit_nano_mae, weights: w.pth}",
    )
    assert lines == [
        "x.yaml:2: petl.position.kinds: 'rel_pos' is not one of norm1, qkv, proj, norm2, fc1, fc2 "
        "(what vit_nano_mae has)"
    ]


def test_prompts_that_leave_nothing_of_a_window_are_refused(mistakes):
    text = "petl:\n  prompt: {num_tokens: {int: [1, 64]}, way: {choice: [prepend, overlap]}}\n"
    assert mistakes(text + "training: {learning_rate: 1, epochs: 1, batch_size: 1}\n") == [
        "x.yaml:2: petl.prompt.num_tokens: must be at most 63 to overlap a window of swin3d_nano, "
        "got 64"
    ]
