"""Process trees and supervised threads: standard library and core only, below every package that starts one."""
