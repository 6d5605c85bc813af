"""What everything speaks: events, instruments and their text. Imports nothing of ours."""
