"""Process trees and supervised threads: standard library only, below every package that starts one."""
