"""Requests as clients write them: their shape, what is wrong with them, and from them to what will run.

API and courier read the same requests here: the one those of single jobs, the other the lines of a batch.
"""
