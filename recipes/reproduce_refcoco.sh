#!/usr/bin/env bash
# RefCOCO, RefCOCO+ and RefCOCOg: raw downloads and runs/base -> accuracy on annotated and on detected boxes.
#   GPUS=8 bash recipes/reproduce_refcoco.sh             (--dry-run shows what it would do)
# Disk: regions of the three sets about 6 GB beside COCO's photos. Hours: not measured yet. Score: not measured yet.
. "$(dirname "$0")/reproduction.sh"
sets=(refcoco refcoco+ refcocog)
for set in "${sets[@]}"; do
  need "$RAW/refer/$set/instances.json" https://github.com/lichengunc/refer
  need "$RAW/refer/${set}_dets.json" "https://github.com/lichengunc/MAttNet (detected boxes)"
done
need "$RAW/coco/images/train2014" https://cocodataset.org/#download
need runs/base/last "recipes/reproduce_pretrain.sh"
all_here

for set in "${sets[@]}"; do
  prepare "$set" --raw "$RAW/refer/$set" --detections "$RAW/refer/${set}_dets.json"
  extract "$RAW/coco/images/train2014" "data/$set/regions-gt" --features frcnn-vg \
    --detector "boxes:$RAW/refer/$set/instances.json"
  extract "$RAW/coco/images/train2014" "data/$set/regions-det" --features frcnn-vg \
    --detector "boxes:data/$set/detections.json"
  run cmal finetune "recipes/finetune/${set/+/_plus}.yaml" --gpus "$GPUS"
  splits=(val testA testB)
  [ "$set" = refcocog ] && splits=(val test)
  for split in "${splits[@]}"; do
    run cmal eval "$set" --split "$split" --json "runs/$set/$split.json"
  done
done
