"""The command line: `fabric up | worker | call | ps | tools | doctor | bench`."""
