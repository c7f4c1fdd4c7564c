#!/usr/bin/env bash
# Does associative learning pay? CMAL beside contrastive learning (CMCL) and neither, on shares of the same pairs.
#   bash recipes/compare.sh             every variant, share and seed, and the ablations; goes on where it was stopped
#   bash recipes/compare.sh --grid      every variant, share and seed alone
#   bash recipes/compare.sh --all       longer pre-training, with tuning and other fine-tuning, too
#   bash recipes/compare.sh --results FOLDER     anew: what recipes/results has is not measured again
#   bash recipes/compare.sh --quick     one seed, two shares, a sixth of the steps: does it run?
#   bash recipes/compare.sh --report    table, curve and sentences again from recipes/results/compare.json alone
# The variants, the budget and what is scored: recipes/compare_plan.py.
set -euo pipefail
export CMAL_EXTRAS=plots
. "$(dirname "$0")/environment.sh"
exec python recipes/compare.py "$@"
