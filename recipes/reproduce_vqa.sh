#!/usr/bin/env bash
# VQA v2: raw downloads and runs/base -> accuracy on val, and the submission file for test-dev.
#   GPUS=8 bash recipes/reproduce_vqa.sh                 (--dry-run shows what it would do)
# Disk: questions 1 GB; photos and regions as in reproduce_pretrain.sh, test2015 adds about 12 GB and 17 GB.
# Hours: not measured yet. Score: not measured yet.
. "$(dirname "$0")/reproduction.sh"
need "$RAW/vqa/v2_OpenEnded_mscoco_train2014_questions.json" https://visualqa.org/download.html
need "$RAW/vqa/v2_mscoco_train2014_annotations.json" https://visualqa.org/download.html
need "$RAW/vqa/v2_OpenEnded_mscoco_val2014_questions.json" https://visualqa.org/download.html
need "$RAW/vqa/v2_mscoco_val2014_annotations.json" https://visualqa.org/download.html
need "$RAW/vqa/v2_OpenEnded_mscoco_test2015_questions.json" https://visualqa.org/download.html
need "$RAW/coco/images/test2015" https://cocodataset.org/#download
need runs/base/last "recipes/reproduce_pretrain.sh"
all_here

prepare vqa --raw "$RAW/vqa"
extract "$RAW/coco/images" data/regions --detector frcnn-vg --dataset coco
run cmal finetune recipes/finetune/vqa.yaml --gpus "$GPUS"
run cmal eval vqa --split val --json runs/vqa/val.json
run cmal eval vqa --split test-dev --predictions runs/vqa/test-dev.json
