"""LoRA fine-tuning: parameters, data with exact loss masks, a resumable loop.

It also writes what a training leaves behind.

`params` is free of torch and is read wherever a run is enqueued; everything else runs in a run's own process.
"""
