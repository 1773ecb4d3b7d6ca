"""Process trees and supervised threads: standard library and core only.

Below every package that starts one.
"""
