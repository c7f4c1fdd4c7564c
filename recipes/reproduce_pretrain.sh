#!/usr/bin/env bash
# Pre-train at paper scale on COCO and Visual Genome captions: raw downloads -> runs/base.
#   GPUS=8 bash recipes/reproduce_pretrain.sh            (--dry-run shows what it would do)
# Disk: photos about 45 GB, regions about 65 GB (231,000 photos, about 50 regions each, 2,048 float16 per region), run 6 GB.
# Hours: not measured yet (`cmal pretrain recipes/base.yaml --dry-run` estimates them). Score: not measured yet.
. "$(dirname "$0")/reproduction.sh"
need "$RAW/coco/annotations/captions_train2014.json" https://cocodataset.org/#download
need "$RAW/coco/dataset_coco.json" "https://cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip)"
need "$RAW/coco/images/train2014" https://cocodataset.org/#download
need "$RAW/visual_genome/region_descriptions.json" https://homes.cs.washington.edu/~ranjay/visualgenome/api.html
need "$RAW/visual_genome/image_data.json" https://homes.cs.washington.edu/~ranjay/visualgenome/api.html
need "$RAW/visual_genome/images/VG_100K" https://homes.cs.washington.edu/~ranjay/visualgenome/api.html
all_here

# Evaluation sets first, where their files exist: their photos are then kept out of the pre-training records.
for set in flickr30k snli-ve refcoco refcoco+ refcocog; do
  folder="$RAW/${set//-/_}"
  case "$set" in refcoco*) folder="$RAW/refer/$set" ;; esac
  if [ -d "$folder" ]; then prepare "$set" --raw "$folder"; fi
done
prepare coco-captions --raw "$RAW/coco"
prepare vg-captions --raw "$RAW/visual_genome"
extract "$RAW/coco/images" data/regions --detector frcnn-vg --dataset coco
extract "$RAW/visual_genome/images" data/regions --detector frcnn-vg --dataset vg
run cmal pretrain recipes/base.yaml --gpus "$GPUS"
run cmal probe-anchors --records data/coco-captions/val.jsonl --regions data/regions --checkpoint runs/base \
  --images "$RAW/coco/images" --html runs/base/anchors.html --json runs/base/anchors.json
