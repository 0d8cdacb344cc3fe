"""From any score to p-values, prediction sets and alarms with a promised rate of false ones."""
