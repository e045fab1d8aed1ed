"""Tools by what they are for: a catalogue too large to be shown to a model is searched instead."""
