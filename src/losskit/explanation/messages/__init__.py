"""Every sentence and word of an explanation, a catalogue for each language."""
