"""Operator rules: one family a file.  A rule says how channels pass one operator; see :class:`shrinkc.analysis.flow.Flow`."""
