"""Our input attribution beside captum's, inseq's and ContextCite's, in one run; see README.md."""
