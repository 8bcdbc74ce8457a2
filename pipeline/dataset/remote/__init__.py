"""Bytes from s3://, gs:// and http(s)://, through fsspec, by ranges, with patience.

urls.py: which URLs, and what of them may be seen. patience.py: what is asked again, and when it is given up.
objects.py: reading and listing. http.py, s3.py: one GET that believes nothing.
"""
