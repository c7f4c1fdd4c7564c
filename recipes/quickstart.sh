#!/usr/bin/env bash
# From a fresh machine to a table: install, draw a world, find regions, pre-train, fine-tune, score, probe.
#   bash recipes/quickstart.sh
# Needs Python 3.10-3.13 and about 7 GB of disk; after installation under 15 minutes on 2 cores. Run it again and it goes on
# where it was stopped. Everything lands in data/ and runs/.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
started=$(date +%s)
results=runs/quickstart
mkdir -p "$results"
step() { printf '\n== %s (minute %d)\n' "$1" $((($(date +%s) - started) / 60)); }

step "1/6 draw the world"
cmal prepare scenes

step "2/6 images become regions"
cmal extract-regions data/scenes/images --out data/scenes/regions --detector scenes
cmal extract-regions data/scenes/images --out data/scenes/regions-gt \
  --detector boxes:data/scenes/official/instances.json --features scenes

step "3/6 pre-train by associative learning"
cmal pretrain recipes/scenes.yaml

step "4/6 fine-tune on four tasks, with and without pre-training: same data, same steps"
step "5/6 and score them"
for task in vqa ve rec retrieval; do
  split=test
  [ "$task" = rec ] && split=testA
  for init in pretrained random; do
    cmal finetune "recipes/finetune/scenes_$task.yaml" --set init=$init --set "out=runs/quickstart/$task-$init"
    cmal eval "scenes-$task" --split $split --checkpoint "runs/quickstart/$task-$init" --json "$results/$task-$init.json"
  done
done

step "6/6 probe the anchors"
cmal probe-anchors --records data/scenes/test.jsonl --regions data/scenes/regions --checkpoint runs/scenes \
  --json "$results/anchors.json" --html "$results/anchors.html"

python recipes/quickstart_table.py "$results" runs/quickstart.json $(($(date +%s) - started))
