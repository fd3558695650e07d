"""Search as a job of a Ray cluster: `python cluster/submit.py SPEC.yaml --address URL`.

The same as `python -m vpetl_ray.submit`, for a checkout that is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vpetl_ray.submit import main

if __name__ == "__main__":
    main()
