#!/usr/bin/env bash
# Does associative learning pay? CMAL beside contrastive learning (CMCL) and neither, on shares of the same pairs.
#   bash recipes/compare.sh             every variant, share and seed, and the ablations; resumes where it was stopped
#   bash recipes/compare.sh --grid      every variant, share and seed alone
#   bash recipes/compare.sh --all       longer pre-training, with tuning and other fine-tuning, too
#   bash recipes/compare.sh --results FOLDER     starts over: without it, runs in recipes/results are not repeated
#   bash recipes/compare.sh --quick     one seed, two shares, a sixth of the steps: does it run?
#   bash recipes/compare.sh --report    table, curve and sentences again from recipes/results/compare.json alone
# The variants, the budget and what is scored: recipes/compare_plan.py.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python recipes/compare.py "$@"
