"""The data of a training: files, rows, tokens, batches."""
