"""LoRA fine-tuning: parameters, data with exact loss masks, a resumable loop.

And what is left behind.

`params` is free of torch and is read wherever a run is enqueued; everything else runs in a run's own process.
"""
