"""What both ends of the fabric agree on: subjects, headers, bodies, errors, descriptions. No I/O lives here."""
