"""Where a recipe becomes objects: one module and one short function a command.

`pretrain.run_pretraining`, `finetune.run_finetuning`, `evaluate.run_evaluation`, `probe.run_probe`; `assembly` builds what
they share, `folder` keeps the run folder.
"""
