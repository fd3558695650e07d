# The three commands of every day, the same here and in CI, and what is run less often.
BIN := .venv/bin/

.PHONY: check licences fix test slow faults

check:  ## lint, format, spelling, types, direction of imports, size of files
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)codespell
	$(BIN)mypy
	$(BIN)lint-imports
	$(BIN)bandit --quiet --recursive --severity-level medium vpetl_ray cluster
	@! git grep -nE '(pickle|dill|joblib|marshal|shelve)\.loads?\(|yaml\.(load|full_load|unsafe_load)\(|torch\.load\(|allow_pickle=True|weights_only=False' \
	  -- vpetl_ray cluster docs | grep -vE 'weights_only=True|# nosec' \
	  || { echo "reading these can run what is in them"; exit 1; }
	@large=$$(git ls-files -z | xargs -0 -I{} find {} -maxdepth 0 -size +3M); \
	  test -z "$$large" || { echo "files over 3 MB are not committed: $$large"; exit 1; }

licences:  ## docs/licences.md, from what is installed
	$(BIN)python docs/make_licences.py > docs/licences.md

fix:  ## what can be mended by itself
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

test:  ## what CI runs
	$(BIN)python -m pytest -n 2 --dist loadfile

slow:  ## the tests that take longer
	$(BIN)python -m pytest -m slow

faults:  ## every fault, as often as it counts, and the table of what came of it
	VPETL_FAULTS=benchmarks/faults $(BIN)python -m pytest tests/faults -m "not gpu" --timeout=1800 --durations=0 -W ignore
