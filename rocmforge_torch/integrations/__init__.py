"""Doors into other libraries, one folder or file each.

Nothing here is imported by `rocmforge_torch` itself, and importing one of these changes nothing in
the library it is for.
"""
