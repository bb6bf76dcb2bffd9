"""What a study shows: pictures, plots, tables and provenance, from the files of the other stages."""
