"""Our speed beside kronfluence's and bergson's, in one run; see README.md."""
