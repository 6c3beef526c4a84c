"""Studies: one question, the runs that answer it, and their table, from one command.

Free of torch and Lightning: runs are processes of their own, and so is what looks at data before the first of them.
"""
