import pytest

from vpetl_ray.errors import SpecError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.tuning.domains import Choice, Fixed, FloatRange, IntRange, Subset, label
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.stored_values import read_label, values_from_columns

DOMAINS = {
    "letters": Subset(items=("q", "k", "v")),
    "numbers": Subset(items=tuple(range(1, 13))),
    "mixed words": Subset(items=("q", "k", "fc1")),
    "lists": Choice(options=((1, 2), (1, 2, 3), (10,))),
    "numbers and words": Choice(options=(0.5, 1, "learned")),
    "yes and no": Choice(options=(True, False)),
    "range": IntRange(low=1, high=9, step=2),
    "float": FloatRange(low=1e-3, high=1.0, log=True),
}


@pytest.mark.parametrize("as_mlflow", [False, True], ids=["typed", "text"])
@pytest.mark.parametrize("name", DOMAINS)
def test_every_member_is_read_back(name, as_mlflow):
    domain = DOMAINS[name]
    members = [0.123456789012345678] if name == "float" else list(domain.members())
    for member in members:
        written = label(member)
        if as_mlflow:
            written = str(written).lower() if isinstance(written, bool) else str(written)
        read = read_label(domain, "petl.x", written)
        assert read == member
        assert type(read) is type(member)


@pytest.mark.parametrize(
    ("domain", "text"),
    [("letters", "qx"), ("lists", "1+5"), ("range", 2), ("float", "fast"), ("float", 2.0)],
)
def test_what_is_not_in_the_domain_is_refused_by_path(domain, text):
    with pytest.raises(SpecError, match=r"petl\.x: .* is not in this space"):
        read_label(DOMAINS[domain], "petl.x", text)


def test_a_row_gives_the_config_it_was_written_from_and_fixed_values_win():
    tree = {
        "petl.patt.targets": Subset(items=("q", "k", "v")),
        "petl.patt.d_bottle": Choice(options=(2, 4)),
        "petl.patt.stages": Subset(items=(1, 2, 3), min_size=1),
        "training.learning_rate": FloatRange(low=1e-4, high=1e-1, log=True),
        "training.epochs": Choice(options=(2, 4)),
        "training.batch_size": 8,
        "training.grad_clip": Choice(options=(None, 1.0)),
    }
    space = Space(arch=get_arch("swin3d_nano"), num_classes=2, tree=tree)
    for values in space.grid():
        row = {p: v for p, v in space.config_columns(values).items() if v is not None}
        read, missing = values_from_columns(space, row)
        assert (read, missing) == (values, ())
    longer = Space(
        arch=space.arch, num_classes=2, tree={**tree, "training.epochs": Fixed(value=70)}
    )
    read, missing = values_from_columns(longer, row)
    assert longer.build(read).recipe.epochs == 70
    _, missing = values_from_columns(space, {})
    assert missing == tuple(space.searched)
