from pathlib import Path

from vpetl_ray.spec.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "search_space.md"


def without_arch(page):
    """Architectures come and go more often than keys."""
    return [line for line in page.splitlines() if not line.startswith("| `arch`")]


def test_the_page_in_docs_is_what_the_models_say():
    assert without_arch(PAGE.read_text(encoding="utf-8")) == without_arch(reference()), (
        "run: python -m vpetl_ray.spec.reference > docs/search_space.md"
    )
