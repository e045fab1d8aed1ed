"""The command line: `fabric --help` lists the commands.

Above: people and scripts. Below: everything else of the platform. `main` puts the commands together, each has a file,
and what they share is in `calling`, `connection`, `console`, `options`, `stopping` and `times`.
"""
