"""The agentic executor: a model works on a program in turns, with tools."""
