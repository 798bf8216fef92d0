"""Messages and help in other languages than English.

Call sites say English f-strings and know nothing of this. A catalogue (``ko.json``) has, for every template, the same
in its language; ``{1}``, ``{2}`` stand for the values, in the order of the English. What is said is matched against
the templates. What a catalogue does not have stays English.
"""
