#!/usr/bin/env bash
# Image-text retrieval on Flickr30k (1k) and COCO (5k and 1k folds): raw downloads and runs/base -> recall at 1, 5 and 10.
#   GPUS=8 bash recipes/reproduce_retrieval.sh           (--dry-run shows what it would do)
# Disk: Flickr30k's photos 5 GB and regions 7 GB beside COCO's. Hours: not measured yet. Score: not measured yet.
. "$(dirname "$0")/reproduction.sh"
need "$RAW/flickr30k/dataset_flickr30k.json" "https://cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip)"
need "$RAW/flickr30k/flickr30k-images" https://shannon.cs.illinois.edu/DenotationGraph
need "$RAW/coco/dataset_coco.json" "https://cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip)"
need "$RAW/coco/images/val2014" https://cocodataset.org/#download
need runs/base/last "recipes/reproduce_pretrain.sh"
all_here

prepare flickr30k --raw "$RAW/flickr30k"
extract "$RAW/flickr30k/flickr30k-images" data/regions --detector frcnn-vg --dataset flickr30k
run cmal eval flickr30k --split test --zero-shot --checkpoint runs/base \
  --json runs/base/flickr30k-zero-shot.json
run cmal finetune recipes/finetune/flickr30k.yaml --gpus "$GPUS"
run cmal eval flickr30k --split test --json runs/flickr30k/test.json

prepare coco-captions --raw "$RAW/coco"
extract "$RAW/coco/images" data/regions --detector frcnn-vg --dataset coco
run cmal finetune recipes/finetune/coco_retrieval.yaml --gpus "$GPUS"
run cmal eval coco-retrieval --split test --json runs/coco-retrieval/test-5k.json
run cmal eval coco-retrieval --split test --protocol 1k --json runs/coco-retrieval/test-1k.json
