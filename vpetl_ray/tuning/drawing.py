"""Draw configs: any one of a space, one near another, the nearest that the budget allows."""

from __future__ import annotations

import math
import random

from vpetl_ray.tuning.domains import Choice, Domain, Fixed, FloatRange, IntRange, Subset, Value
from vpetl_ray.tuning.method_space import Values, is_size
from vpetl_ray.tuning.space import Space, TrialConfig

_STEP = 0.15  # of a range, standard deviation of a neighbour


def draw_member(domain: Domain, rng: random.Random) -> Value:
    """Draw any member of a domain, as a random search would."""
    if isinstance(domain, Fixed):
        return domain.value
    if isinstance(domain, IntRange | FloatRange):
        return _at(domain, rng.random())
    if isinstance(domain, Subset):
        while True:
            chosen = tuple(item for item in domain.items if rng.random() < 0.5)
            if len(chosen) >= domain.min_size:
                return chosen
    return rng.choice(list(domain.members()))


def draw_neighbour(domain: Domain, value: Value, rng: random.Random) -> Value:
    """Draw a member like `value`, but another one where there are others."""
    if isinstance(domain, Subset):
        assert isinstance(value, tuple)
        item = rng.choice(domain.items)
        flipped = set(value) ^ {item}
        return domain.ordered(flipped) if len(flipped) >= domain.min_size else value
    if isinstance(domain, IntRange | FloatRange):
        return _at(domain, min(max(_place(domain, value) + rng.gauss(0.0, _STEP), 0.0), 1.0))
    if isinstance(domain, Choice):
        return _beside(domain.options, value, rng)
    return draw_member(domain, rng)


def draw(space: Space, rng: random.Random) -> Values:
    """Draw any config of a space."""
    return space.walk(lambda _, domain: draw_member(domain, rng))


def mutate(space: Space, values: Values, rng: random.Random) -> Values:
    """Change one or two of a config's values; what becomes active by that is drawn."""
    searched = [path for path in values if not isinstance(space.domains[path], Fixed)]
    changed = set(rng.sample(searched, min(len(searched), rng.choice((1, 1, 2)))))

    def pick(path: str, domain: Domain) -> Value:
        if path not in values:
            return draw_member(domain, rng)
        return draw_neighbour(domain, values[path], rng) if path in changed else values[path]

    return space.walk(pick)


def repair(space: Space, values: Values, budget: int) -> TrialConfig | None:
    """Shrink a config into the budget: all its sizes by one factor, the largest that fits.

    What it trains, and where, stays; so does the ratio of its widths, as far as their domains let
    it. None where it is too large even at the smallest sizes.

    Args:
        space: of the config.
        values: over the budget.
        budget: most trainable parameters.
    """
    sizes: dict[str, float] = {
        path: float(value)
        for path, value in values.items()
        if isinstance(value, int) and not isinstance(value, bool) and is_size(path)
        if not isinstance(space.domains[path], Fixed)
    }
    if not sizes:
        return None

    def shrunk(factor: float) -> TrialConfig:
        smaller = {p: _at_most(space.domains[p], size * factor) for p, size in sizes.items()}
        return space.build({**values, **smaller})

    fitting, low, high = shrunk(0.0), 0.0, 1.0
    if space.count(fitting) > budget:
        return None
    for _ in range(12):
        middle = (low + high) / 2.0
        config = shrunk(middle)
        if space.count(config) <= budget:
            fitting, low = config, middle
        else:
            high = middle
    return fitting


def _at(domain: IntRange | FloatRange, place: float) -> Value:
    """Return the member at a place from 0 to 1, by logarithm on a log range."""
    low, high = float(domain.low), float(domain.high)
    value = low * (high / low) ** place if domain.log else low + (high - low) * place
    if isinstance(domain, FloatRange):
        return min(max(value, low), high)
    # Each whole number has the same share of the line.
    if not domain.log:
        members = range(domain.low, domain.high + 1, domain.step)
        return members[min(int(place * len(members)), len(members) - 1)]
    return domain.nearest(round(value))


def _place(domain: IntRange | FloatRange, value: Value) -> float:
    low, high, number = float(domain.low), float(domain.high), float(value)  # type: ignore[arg-type]
    if low == high:
        return 0.5
    if domain.log:
        return math.log(number / low) / math.log(high / low)
    return (number - low) / (high - low)


def _beside(options: tuple[Value, ...], value: Value, rng: random.Random) -> Value:
    """Of numbers one of the two beside it, of all else any other."""
    place = options.index(value)
    if all(isinstance(option, int | float) and not isinstance(option, bool) for option in options):
        ranked = sorted(range(len(options)), key=lambda index: float(options[index]))  # type: ignore[arg-type]
        at = ranked.index(place)
        near = [ranked[i] for i in (at - 1, at + 1) if 0 <= i < len(options)]
        return options[rng.choice(near)] if near else value
    others = [option for index, option in enumerate(options) if index != place]
    return rng.choice(others) if others else value


def _at_most(domain: Domain, size: float) -> Value:
    """Return the largest member that is not above `size`, else the smallest."""
    if isinstance(domain, IntRange):
        steps = math.floor((size - domain.low) / domain.step)
        return domain.nearest(domain.low + domain.step * steps)
    numbers = sorted(m for m in domain.members() if isinstance(m, int | float))
    below = [number for number in numbers if number <= size]
    return below[-1] if below else numbers[0]
