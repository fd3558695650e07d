"""A conditional space of the demo's shape whose importances are known, and trials of it.

Two methods that can be off, each with width, scale and stages of its own; a learning rate whose
best value follows the width; a batch size without any effect. Accuracy saturates with capacity.
"""

import numpy as np

from vpetl_ray.results.records import TrialRecord, TrialState

WIDTHS = [2, 4, 8, 16, 32, 64]
STAGES = ["1", "2", "3", "1+2", "1+3", "2+3", "1+2+3"]
TARGETS = ["none", "q", "k", "v", "qk", "qv", "kv", "qkv"]
PATT = ["petl.patt.targets", "petl.patt.d_bottle", "petl.patt.scale", "petl.patt.stages"]
ADAPTER = [
    "petl.adapter.enabled", "petl.adapter.placement", "petl.adapter.d_bottle",
    "petl.adapter.scale", "petl.adapter.stages",
]  # fmt: skip
TRAINING = ["training.learning_rate", "training.batch_size"]
PATHS = [*PATT, *ADAPTER, *TRAINING]
NOISE = 1.0


def draw(rng):
    """One config, every choice uniform (scales and rates on a logarithmic axis)."""
    config = {"petl.patt.targets": str(rng.choice(TARGETS))}
    if config["petl.patt.targets"] != "none":
        config["petl.patt.d_bottle"] = int(rng.choice(WIDTHS))
        config["petl.patt.scale"] = float(np.exp(rng.uniform(np.log(0.4), np.log(1.6))))
        config["petl.patt.stages"] = str(rng.choice(STAGES))
    config["petl.adapter.enabled"] = bool(rng.integers(2))
    if config["petl.adapter.enabled"]:
        config["petl.adapter.placement"] = str(rng.choice(["parallel", "sequential"]))
        config["petl.adapter.d_bottle"] = int(rng.choice(WIDTHS))
        config["petl.adapter.scale"] = float(np.exp(rng.uniform(np.log(0.1), np.log(2.0))))
        config["petl.adapter.stages"] = str(rng.choice(STAGES))
    config["training.learning_rate"] = float(np.exp(rng.uniform(np.log(5e-3), np.log(2e-2))))
    config["training.batch_size"] = int(rng.choice([8, 16, 32]))
    return config


def accuracy(config):
    """Without noise, in percent."""
    gain, width = 0.0, 0
    if config["petl.patt.targets"] != "none":
        width = config["petl.patt.d_bottle"]
        targets = sum({"q": 0.3, "k": 0.6, "v": 1.0}[t] for t in config["petl.patt.targets"])
        fits = np.exp(-(np.log(config["petl.patt.scale"]) ** 2))
        gain += 6 * targets * _width(width) * _stages(config["petl.patt.stages"]) * fits
    if config["petl.adapter.enabled"]:
        own = config["petl.adapter.d_bottle"]
        width = max(width, own)
        fits = np.exp(-0.3 * np.log(config["petl.adapter.scale"] / 0.6) ** 2)
        gain += 14 * _width(own) * _stages(config["petl.adapter.stages"]) * fits
        gain += 1.0 * (config["petl.adapter.placement"] == "parallel")
    if width:
        best = 0.012 * (16 / max(width, 4)) ** 0.25
        gain -= 6 * np.log(config["training.learning_rate"] / best) ** 2
    return 65 + (24 * (1 - np.exp(-gain / 14)) if gain > 0 else gain)


def _width(width):
    return np.log2(width + 1) / 6


def _stages(stages):
    return sum({"1": 0.5, "2": 1.0, "3": 1.3}[stage] for stage in stages.split("+")) / 2.8


def trials(count, seed):
    """Random trials, with noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        config = draw(rng)
        params = 1500
        if config["petl.patt.targets"] != "none":
            params += config["petl.patt.d_bottle"] * 400 * len(config["petl.patt.targets"])
        params += config.get("petl.adapter.d_bottle", 0) * 700
        made.append(
            TrialRecord(
                id=f"t{number:04d}", number=number, state=TrialState.COMPLETE,
                trainable_params=params, top1=accuracy(config) + rng.normal(0, NOISE),
                config={path: config.get(path) for path in PATHS},
            )
        )  # fmt: skip
    return made


def truth(count=4000):
    """Total Sobol indices of the function itself, defined as `results.importance` does."""
    rng = np.random.default_rng(0)
    configs = [draw(rng) for _ in range(count)]
    told = np.array([accuracy(config) for config in configs])

    def exchanged(paths, own):
        squares = 0.0
        for index, other in zip(own, rng.permutation(own), strict=True):
            config = {path: v for path, v in configs[index].items() if path not in paths}
            config |= {path: configs[other][path] for path in paths if path in configs[other]}
            squares += (accuracy(config) - told[index]) ** 2
        return squares / count / 2 / told.var()

    every = range(count)
    found = {
        "patt on or off": exchanged(PATT, every),
        "adapter on or off": exchanged(ADAPTER, every),
    }
    for path in PATHS:
        if path == "petl.adapter.enabled":
            continue
        own = [i for i in every if configs[i].get(path) not in (None, "none")]
        found[name_of(path)] = exchanged([path], own)
    return found


def name_of(path):
    """As `results.choices` names it."""
    if path == "petl.adapter.enabled":
        return "adapter on or off"
    return path.removeprefix("petl.").removeprefix("training.").replace(".", " ")
