#!/usr/bin/env bash
# SNLI-VE: raw downloads and runs/base -> accuracy on dev and test.
#   GPUS=8 bash recipes/reproduce_snli_ve.sh             (--dry-run shows what it would do)
# Disk: photos 5 GB, regions 7 GB, run 2 GB. Hours: not measured yet. Score: not measured yet.
. "$(dirname "$0")/reproduction.sh"
for split in train dev test; do
  need "$RAW/snli_ve/snli_ve_$split.jsonl" https://github.com/necla-ml/SNLI-VE
done
need "$RAW/flickr30k/flickr30k-images" https://shannon.cs.illinois.edu/DenotationGraph
need runs/base/last "recipes/reproduce_pretrain.sh"
all_here

prepare snli-ve --raw "$RAW/snli_ve"
extract "$RAW/flickr30k/flickr30k-images" data/regions --detector frcnn-vg --dataset flickr30k
run cmal finetune recipes/finetune/snli_ve.yaml --gpus "$GPUS"
for split in dev test; do
  run cmal eval snli-ve --split "$split" --json "runs/snli-ve/$split.json"
done
