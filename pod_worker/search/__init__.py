"""Tree search over programs that a language model writes and the sandbox executes."""
