#!/usr/bin/env bash
# From a fresh machine to a table: install, draw a world, find regions, pre-train, fine-tune, score, probe.
#   bash recipes/quickstart.sh
# Needs Python 3.10-3.13 and about 7 GB of disk; after installation under 15 minutes on 2 cores. Run it again and it
# resumes where it was stopped. Everything lands in data/ and runs/.
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

split_of() { if [ "$1" = rec ]; then echo testA; else echo test; fi; }
tune_and_score() {  # TASK INIT INIT_FROM
  cmal finetune "recipes/finetune/scenes_$1.yaml" --set "init=$2" --set "init_from=$3" --set "out=$results/$1-$2"
  cmal eval "scenes-$1" --split "$(split_of "$1")" --checkpoint "$results/$1-$2" --json "$results/$1-$2.json"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
# two commands run at once with half of the cores each: small models gain little from more cores
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 1 ? cores / 2 : 1))}"

step "3/6 pre-train by associative learning; meanwhile fine-tune and score without any pre-training"
cmal pretrain recipes/scenes.yaml --quiet --set out="$results/sizes" --set train.steps=1  # sizes and word pieces
(for task in rec vqa ve retrieval; do tune_and_score "$task" random "$results/sizes/last"; done) > "$results/random.log" 2>&1 &
without=$!
cmal pretrain recipes/scenes.yaml

step "4/6 fine-tune on four tasks with pre-training: same data, same steps"
step "5/6 and score them"
(for task in vqa ve; do tune_and_score "$task" pretrained runs/scenes/last; done) > "$results/pretrained.log" 2>&1 &
with=$!
for task in rec retrieval; do tune_and_score "$task" pretrained runs/scenes/last; done
for side in "$with pretrained" "$without random"; do
  wait "${side% *}" || { cat "$results/${side#* }.log"; exit 1; }
done

step "6/6 probe the anchors"
cmal probe-anchors --records data/scenes/test.jsonl --regions data/scenes/regions --checkpoint runs/scenes \
  --json "$results/anchors.json" --html "$results/anchors.html"

python recipes/quickstart_table.py "$results" runs/quickstart.json $(($(date +%s) - started))
