#!/usr/bin/env bash
# All tests, in the environment of recipes/environment.sh.
#   bash tests/run.sh [--slow] [pytest arguments]
set -euo pipefail
export CMAL_EXTRAS=test
. "$(dirname "$0")/../recipes/environment.sh"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
ruff check .
ruff format --check .
exec python -m pytest "$@"
