"""The command line: `fabric up | worker | gateway | call | task | dead | schedule | events | ps | tools | doctor |
bench`.

Above: people and scripts. Below: everything else of the platform. `main` puts the commands together, each has a file,
and what they share is in `calling`, `connection`, `console`, `options`, `stopping` and `times`.
"""
