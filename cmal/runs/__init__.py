"""From a recipe or a request to objects, one module per command.

`pretrain.run_pretraining`, `finetune.run_finetuning`, `evaluate.run_evaluation` and `probe.run_probe` are the commands;
`dry_run` estimates a training. `train` holds what both trainings share, `building` and `compatibility` what all commands
share, `folder` the run folder, `model_config` the configuration beside a checkpoint's weights.
"""
