#!/usr/bin/env bash
# Trains the `scenes` detector from nothing and puts its weights where the package looks for them.
# Further arguments go to the trainer, e.g.: bash recipes/train_scenes_detector.sh --set steps=100 --out /tmp/try.safetensors
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m cmal.runs.train_scenes_detector recipes/scenes_detector.yaml "$@"
