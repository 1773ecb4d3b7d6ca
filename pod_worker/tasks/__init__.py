"""What an experiment is measured on: data, a split, a metric, an evaluator.

`prepare` writes the split, `evaluator` scores predictions outside the sandbox. A program never sees hidden labels.
"""
