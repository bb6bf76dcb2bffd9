"""One metric or one step of a metric per file: functions of arrays, without files and tables."""
