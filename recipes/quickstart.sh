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
tune_and_score() {  # TASK SPLIT INIT
  cmal finetune "recipes/finetune/scenes_$1.yaml" --set "init=$3" --set "out=$results/$1-$3"
  cmal eval "scenes-$1" --split "$2" --checkpoint "$results/$1-$3" --json "$results/$1-$3.json"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for task in vqa ve rec retrieval; do
  split=test
  [ "$task" = rec ] && split=testA
  # the two runs of a task side by side, one thread each; the second one's lines go to a file
  OMP_NUM_THREADS=1 tune_and_score "$task" "$split" random > "$results/$task-random.log" 2>&1 & without=$!
  OMP_NUM_THREADS=1 tune_and_score "$task" "$split" pretrained & with=$!
  wait "$with"
  wait "$without" || { cat "$results/$task-random.log"; exit 1; }
done

step "6/6 probe the anchors"
cmal probe-anchors --records data/scenes/test.jsonl --regions data/scenes/regions --checkpoint runs/scenes \
  --json "$results/anchors.json" --html "$results/anchors.html"

python recipes/quickstart_table.py "$results" runs/quickstart.json $(($(date +%s) - started))
