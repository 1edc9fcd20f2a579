"""The wire format as a sans-I/O codec: frames, header, writer and reader. Imports only model, errors, units."""
