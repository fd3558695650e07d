# The three commands of every day, the same here and in CI, and what is run less often.
BIN := .venv/bin/

.PHONY: check fix test slow faults

check:  ## lint, format, spelling, types, direction of imports, size of files
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)codespell
	$(BIN)mypy
	$(BIN)lint-imports
	@large=$$(git ls-files -z | xargs -0 -I{} find {} -maxdepth 0 -size +3M); \
	  test -z "$$large" || { echo "files over 3 MB are not committed: $$large"; exit 1; }

fix:  ## what can be mended by itself
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

test:  ## what CI runs
	$(BIN)python -m pytest

slow:  ## the tests that take longer
	$(BIN)python -m pytest -m slow

faults:  ## every fault, as often as it counts, and the table of what came of it
	$(BIN)python -m pytest tests/faults -m "not gpu" --timeout=1800 --durations=0 -W ignore
