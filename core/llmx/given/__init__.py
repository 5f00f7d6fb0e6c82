"""Objects that a Python program gives a run: they enter as parts, offered by a plugin that exists in this process only.

A recipe names one `given:NAME`; its run goes on where the same object is given again.
"""
