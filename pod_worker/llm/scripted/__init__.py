"""A model for tests and demos: code writes its answers from a request's facts.

No language model is asked. Every answer says so (`is_scripted`).
"""
