"""The command line: `fabric up | worker | gateway | call | ps | tools | doctor | bench`."""
