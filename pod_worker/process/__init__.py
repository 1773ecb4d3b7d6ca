"""Process trees and supervised threads: standard library and core only.

Every package that starts a process may import it.
"""
