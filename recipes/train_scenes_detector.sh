#!/usr/bin/env bash
# Trains the `scenes` detector from nothing and puts its weights where the package looks for them.
# Further arguments go to the trainer, e.g.: bash recipes/train_scenes_detector.sh --set steps=100 --out /tmp/try.safetensors
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m cmal.scenes.detector_training recipes/scenes_detector.yaml "$@"
